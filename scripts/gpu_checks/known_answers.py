"""The attacks against known answers."""

from __future__ import annotations

from typing import Any

from .common import (
    CUDA,
    NAME,
    device,
    late,
    say,
)


def known() -> dict[str, Any]:
    """The attacks against defenses whose optimum is known in closed form, as ``bench calibrate``, on the device."""
    from bench.calibration import gaps
    from bench.plugins.catalogue import build

    where, found = device(), {}
    names = ("pgd", "apgd", "bpda_eot", "noise", "square") if CUDA else ("pgd",)
    rows = []
    for name in names:
        for case in gaps.CASES if CUDA else gaps.CASES[:1]:
            attack = build("attacks", name, gaps.budget(name, case))
            for access in attack.accesses:
                for norm in attack.norms:
                    if late() or not gaps.applies(attack, case, access):
                        continue
                    row = gaps.measure(
                        name, attack, case, access, norm, images=gaps.IMAGES, device=where
                    )
                    rows.append(row)
                    found[f"{name} {access} {norm} {case.name} {case.classes}"] = {
                        "gap": row.gap, "fault": row.fault, "ungated": row.ungated,
                    }  # fmt: skip
    missed = gaps.failures(rows)
    say(
        "BAD" if missed else "ok",
        f"known answers on {NAME}: {len(found)} measured; missed: {missed or 'none'}",
    )
    return found
