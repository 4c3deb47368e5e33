"""The model card of an entry, in Markdown: what its record says, in the form that hubs of models expect."""

from timm_lipschitz.leaderboard._cells import ROUNDING_NOTE, attack_names, certificate_name, entry_name, images_cell
from timm_lipschitz.leaderboard._escape import markdown_text
from timm_lipschitz.leaderboard.site.words import training_text
from timm_lipschitz.records import Record, Run


def model_card(run: Run) -> str:
    """Model, certificate, training, evaluation and limits. Every figure comes with its interval and its counts."""
    record = run.record
    return "\n".join(
        [
            f"# {markdown_text(entry_name(record))}",
            "",
            *_model(record),
            "",
            "## Certificate",
            "",
            *_certificate(record),
            "",
            "## Training",
            "",
            _training(record),
            "",
            "## Evaluation",
            "",
            *_evaluation(record),
            "",
            "## Limits",
            "",
            "- A certificate speaks of one image and of perturbations of bounded norm. It says nothing about whether "
            "the prediction is right, about images from elsewhere, or about other changes (rotation, blur, weather).",
            "- Attacked accuracy is an upper bound on robust accuracy: a better attack may lower it. Certified "
            "accuracy is a lower bound.",
            *_own_limits(record),
            "",
        ]
    )


def _model(record: Record) -> list[str]:
    model = record.model
    return [
        f"- Family: {markdown_text(model.family)}",
        f"- Input: {' x '.join(map(str, model.input_size))} (channels, height, width), pixels in [0, 1]",
        f"- Classes: {model.num_classes}",
        f"- Parameters: {model.parameters:,}",
        f"- SHA-256 of the weights: {model.weights_sha256}",
    ]


def _certificate(record: Record) -> list[str]:
    model, certification = record.model, record.certification
    if certification is None:
        return ["The model has no certificate: every certified radius is 0."]
    lines = [
        f"- Nominal L2 Lipschitz bound: {model.lipschitz:g}",
        f"- It speaks about: {certificate_name(record)}",
    ]
    if model.lipschitz_rigorous is not None:
        kind = "Bound, asserted in part" if certification.asserted else "Bound of the stored weights, rounding counted"
        lines.insert(1, f"- {kind}: {model.lipschitz_rigorous!r}")
    if certification.asserted:
        lines.append(f"- Asserted, not proved: {markdown_text('; '.join(certification.asserted))}")
    if certification.lowered:
        lines.append(f"- Radii lowered because rounding in float32 changed a prediction: {certification.lowered}")
    return lines


def _training(record: Record) -> str:
    text, training = training_text(record), record.training
    data = f", data SHA-256 {training.data_sha256}" if training and training.data_sha256 else ""
    return f"{markdown_text(text[0].upper() + text[1:])}{data}."


def _evaluation(record: Record) -> list[str]:
    dataset, results = record.dataset, record.results
    lines = [
        f"{markdown_text(dataset.name)}, {markdown_text(dataset.split)} split, {images_cell(record)} images "
        f"(SHA-256 {dataset.content_sha256}). Attacks: {markdown_text(attack_names(record))}.",
        "",
        "| | % | 95% interval | images |",
        "| --- | ---: | ---: | ---: |",
    ]
    figures = [("clean", results.clean)]
    for at in results.threat_models:
        if record.certification is not None:
            figures.append((f"certified at {at.threat_model}", at.certified))
        if at.robust is not None:
            figures.append((f"attacked at {at.threat_model}", at.robust))
    for name, figure in figures:
        low, high = figure.interval_percent
        lines.append(f"| {name} | {figure.percent} | {low} to {high} | {figure.count:,} of {figure.total:,} |")
    return [*lines, "", ROUNDING_NOTE]


def _own_limits(record: Record) -> list[str]:
    limits = []
    if record.dataset.evaluated.kind != "all":
        limits.append(f"- Only {images_cell(record)} images of the split were evaluated.")
    if record.attacked is None:
        limits.append("- The model was not attacked.")
    elif record.attacked.count < record.dataset.evaluated.count:
        limits.append(f"- Only {record.attacked.count:,} of {record.dataset.evaluated.count:,} images were attacked.")
    return limits
