"""Tables, figures, sentences and the report page, all made from the files of a run. Nothing here trains or scores."""
