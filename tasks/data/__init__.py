"""Images: one loader per dataset, all giving the same three splits."""
