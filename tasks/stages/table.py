"""Every stage that a recipe may name, and where it is."""

from __future__ import annotations

STAGES: dict[str, str] = {
    "detect_align": "tasks.stages.detect_align:DetectAlign",
    "score": "tasks.stages.score:Score",
    "pisa_sr": "tasks.stages.restorers.pisa_sr:PisaSR",
    "compact_restorer": "tasks.stages.restorers.compact:CompactRestorer",
    "gfpgan": "tasks.stages.restorers.gfpgan:Gfpgan",
    "codeformer": "tasks.stages.restorers.codeformer:CodeFormer",
    "compact_severe": "tasks.stages.restorers.compact:CompactSevere",
    "diffbir": "tasks.stages.restorers.diffbir:DiffBir",
    "hypir": "tasks.stages.restorers.one_step.hypir:Hypir",
    "osdface": "tasks.stages.restorers.one_step.osdface:OsdFace",
    "sdface": "tasks.stages.restorers.one_step.sdface:SdFace",
    "tsd_sr": "tasks.stages.restorers.one_step.tsd_sr:TsdSr",
    "swinir": "tasks.stages.restorers.swinir:SwinIr",
    "ffa_net": "tasks.stages.restorers.ffa_net:FfaNet",
    "compact_dehaze": "tasks.stages.restorers.compact:CompactDehaze",
    "face_tone_net": "tasks.stages.restorers.face_tone_net:FaceToneNet",
    "compact_skin_tone": "tasks.stages.restorers.compact:CompactSkinTone",
    "best_of": "tasks.stages.best_of:BestOf",
    "photometric": "tasks.stages.photometric:Photometric",
    "identity": "tasks.stages.identity:Identity",
    "paste_back": "tasks.stages.paste_back:PasteBack",
    "evaluate": "tasks.stages.score:Evaluate",
}
"""What `use` may name, and where it lives. Modules are imported only when a recipe uses them. A stage of your own is
named as `package.module:Class`; it must be importable wherever workers run."""
