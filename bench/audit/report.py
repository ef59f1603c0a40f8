"""The audit's report as a page, from what was written as JSON. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jinja2

_PAGE = """\
# Audit of `{{ of.defense.name }}` on {{ of.dataset }}, {{ of.norm }} {{ of.eps }}

**{{ verdict }}**

{% if accuracy -%}
{{ accuracy.clean }} % are right when nobody attacks, and {{ accuracy.robust }} %
({{ accuracy.robust_low }}-{{ accuracy.robust_high }}) survive the attacks of this audit, image
by image. They are short: the ladder has the long ones.
{%- else -%}
A check could not be run, so that the audit has no robust accuracy of its own.
{%- endif %}

First {{ of.n }} test images, classifier `{{ of.classifier.name }}`
({{ of.classifier.checkpoint | digest }}), defense checkpoint
{{ of.defense.checkpoint | digest }}, seed {{ of.seed }},
{{ of.draws | of("draw") }} of the judge.
Main attack: apgd with {{ access }} access, {{ attack.steps | of("step") }},
{{ attack.eot | of("draw") }} a gradient, {{ attack.restarts | of("restart") }},
loss {{ attack.loss }}; then apgd_t to each class for what it left.

| check | state | figure | threshold | because |
| --- | --- | --- | --- | --- |
{% for found in findings -%}
| {{ found.check }} {{ found.title }} | {{ found.state }} |
{%- for text in (found.figure, found.threshold, found.reason) %} {{ text | cell }} |
{%- endfor %}
{% endfor %}
Made by `{{ provenance.command }}` on {{ provenance.date }}, commit
{{ provenance.commit | digest }}, {{ provenance.device }}.
"""


def markdown(report: Mapping[str, Any]) -> str:
    """Write a report as Markdown."""
    pages = jinja2.Environment(
        undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=True
    )
    pages.filters["cell"] = lambda text: " ".join(str(text).replace("|", r"\|").split())
    pages.filters["of"] = lambda count, what: f"{count} {what}" + ("s" if count != 1 else "")
    pages.filters["digest"] = lambda text: (text or "none")[:16]
    return pages.from_string(_PAGE).render(**report, of=report["subject"])
