"""What a stored file must say of its images, so that its networks can be built and fed without them."""

from typing import Any

from torchvision.transforms import v2

from tasks.data.splits import ImageData


def image_facts(data: ImageData) -> dict[str, Any]:
    """Entries for the provenance of a checkpoints file: what a classifier must know, and mean and std of the colors where they are known."""
    facts: dict[str, Any] = {"facts": data.facts}
    transform = getattr(data.train, "transform", None)
    for step in getattr(transform, "transforms", [transform]):
        if isinstance(step, v2.Normalize):
            facts["normalization"] = {"mean": list(step.mean), "std": list(step.std)}
    return facts
