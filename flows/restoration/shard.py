"""A shard in work: which items each stage gets, and what the images' verdicts are.

Pure bookkeeping over rows: no Prefect, no Ray, no pixels. A row is what a worker returned or what the ledger holds
of an earlier run; both are treated alike, which is what makes a second run a resume.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tasks.archive import books
from tasks.recipes import Recipe, RecipeStage, stage_key
from tasks.stage import WHOLE_IMAGE

Row = dict[str, Any]
Item = dict[str, Any]
ImageRef = tuple[str, str]
"""(workspace path of an intermediate file, name of the image in it)."""

FAILED = ("failed_retryable", "quarantined")
TRY_AGAIN = ("failed_retryable", "pending")


class Shard:
    """A fixed set of images of one bucket, with the rows that are known of them."""

    def __init__(
        self,
        shard_id: str,
        bucket: int,
        images: Mapping[str, Sequence[str]],
        recipe: Recipe,
        digests: Mapping[str, str],
        planned: Mapping[str, Row],
    ) -> None:
        """`images` maps every image_id to the paths that hold it, `planned` to its row of the plan."""
        self.id, self.bucket, self.images, self.planned = shard_id, bucket, images, planned
        self.recipe, self.digests = recipe, digests
        self._place = {stage.id: n for n, stage in enumerate(recipe.stages)}
        self.rows: dict[str, dict[tuple[str, int], Row]] = {}  # stage id → (image_id, face) → row

    def adopt(
        self,
        rows: Iterable[Row],
        exists: Callable[[str], bool],
        deliver: Callable[[Sequence[str], Row], bool],
    ) -> None:
        """Takes over rows of earlier runs that are still true: same digest, settled, and with what they wrote.

        `deliver` brings the file that a row names to every path of its image, where there is a copy of it left.
        """
        for row in rows:
            if row["stage_digest"] == self.digests.get(row["stage"]) and row["state"] not in TRY_AGAIN:
                self._put(row["stage"], [row])
        self._drop_what_is_not_delivered(deliver)
        while self._drop_what_lost_its_images(exists):
            pass

    def items(self, stage: RecipeStage) -> tuple[list[Item], list[Row]]:
        """What is left to do at a stage, and the rows of faces to which it does not apply (its gate is shut)."""
        waiting = self._waiting(stage)
        if stage.scope == "image":
            item = self._image_item if self._place[stage.id] == 0 else self._paste_item
            return [item(stage, image_id) for image_id, _ in waiting], []
        applies = [stage.applies_to(self._metrics(face, stage)) for face in waiting]
        items = [self._face_item(stage, face) for face, wanted in zip(waiting, applies, strict=True) if wanted]
        shut = [self._gated(face, stage) for face, wanted in zip(waiting, applies, strict=True) if not wanted]
        return items, shut

    def apply(self, stage: RecipeStage, rows: Iterable[Row]) -> None:
        """Takes a stage's rows in. Doing so twice changes nothing."""
        self._put(stage.id, rows)

    def complete(self, stage: RecipeStage) -> bool:
        """Whether nothing is left to do at a stage."""
        return not self._waiting(stage)

    def replaced_by(self, stage: RecipeStage) -> list[Row]:
        """Rows that set verdicts aside before the stage writes over the files that they speak of.

        A run that dies between files and verdicts thus leaves no verdict that the files belie.
        """
        if stage.scope != "image" or self._place[stage.id] == 0:
            return []
        waiting = [image_id for image_id, _ in self._waiting(stage)]
        stale = [image_id for image_id in waiting if self.planned.get(image_id, {}).get("why") == "stale"]
        return [new_row(image_id, "pending", "pending") for image_id in stale]

    def work_key(self, stage: RecipeStage, workspace: str) -> str:
        """Names this stage's work on this shard, in this workspace: what a cache may be asked for."""
        members = "\n".join(self.images)
        return hashlib.sha256(f"{workspace}\n{stage.id}\n{self.digests[stage.id]}\n{members}".encode()).hexdigest()

    def intermediates(self) -> set[str]:
        """Workspace paths of the intermediate files that the known rows name."""
        names = ("output_uri", "checkpoint")
        uris = {row.get(name) for rows in self.rows.values() for row in rows.values() for name in names}
        return {uri for uri in uris if uri and uri.startswith("intermediates/")}

    def undelivered(self, verdicts: Iterable[Row]) -> list[str]:
        """Paths at which nothing may lie in the restored tree: what lies there is of another recipe or content."""
        stale: list[str] = []
        for row in verdicts:
            outcome, why = row["detail"]["outcome"], self.planned.get(row["image_id"], {}).get("why")
            if outcome in ("quarantined", "skipped") or (outcome == "failed" and why == "changed"):
                stale += self.images[row["image_id"]]
        return stale

    def verdicts(self) -> list[Row]:
        """One commit row per image, with the outcome of its files."""
        return [self._verdict(image_id) for image_id in self.images]

    def _put(self, stage_id: str, rows: Iterable[Row]) -> None:
        known = self.rows.setdefault(stage_id, {})
        known.update({(row["image_id"], row["face"]): row for row in rows})

    def _drop_what_is_not_delivered(self, deliver: Callable[[Sequence[str], Row], bool]) -> None:
        """A file that is gone, or that another recipe has written over since, is pasted again."""
        for stage in self.recipe.stages[1:]:
            if stage.scope == "image":
                known = self.rows.get(stage.id, {})
                named = [(key, row) for key, row in known.items() if row.get("output_uri")]
                for key, row in named:
                    if not deliver(self.images[key[0]], row):
                        del known[key]

    def _waiting(self, stage: RecipeStage) -> list[tuple[str, int]]:
        """Images (with face -1) or faces that have no row of this stage yet and should get one."""
        if self._place[stage.id] == 0:
            found = [(image_id, WHOLE_IMAGE) for image_id in self.images]
        elif stage.scope == "image":
            found = [(image_id, WHOLE_IMAGE) for image_id in self._to_paste()]
        else:
            found = [face for face in self._faces() if self._alive(face, stage)]
        return [each for each in found if not self._done(stage, *each)]

    def _done(self, stage: RecipeStage, image_id: str, face: int) -> bool:
        return (image_id, face) in self.rows.get(stage.id, {})

    def _faces(self) -> list[tuple[str, int]]:
        return [face for image_id in self.images for face in self._faces_of(image_id)]

    def _faces_of(self, image_id: str) -> list[tuple[str, int]]:
        """The faces that detection found; their number stands in the image's own row."""
        first = self.rows.get(self.recipe.stages[0].id, {})
        image = first.get((image_id, WHOLE_IMAGE)) or {}
        return [(image_id, n) for n in range(int((image.get("metrics") or {}).get("faces", 0)))]

    def _before(self, stage: RecipeStage) -> tuple[RecipeStage, ...]:
        return self.recipe.stages[: self._place[stage.id]]

    def _alive(self, face: tuple[str, int], stage: RecipeStage) -> bool:
        rows = [self.rows.get(s.id, {}).get(face) for s in self._before(stage)]
        return not self._stopped(face, stage) and not any(row and row["state"] in FAILED for row in rows)

    def _stopped(self, face: tuple[str, int], stage: RecipeStage | None = None) -> bool:
        stages = self._before(stage) if stage else self.recipe.stages
        return any(s.stop_when and s.stop_when.holds(self._metrics(face, None)) for s in stages)

    def _metrics(self, face: tuple[str, int], stage: RecipeStage | None) -> dict[str, float]:
        merged: dict[str, float] = {}
        for earlier in self._before(stage) if stage else self.recipe.stages:
            merged |= self.rows.get(earlier.id, {}).get(face, {}).get("metrics") or {}
        return merged

    def _images_for(self, stage: RecipeStage, face: tuple[str, int]) -> dict[str, ImageRef]:
        return {name: self._find(name, stage, face) for name in stage.reads}

    def _find(self, name: str, stage: RecipeStage, face: tuple[str, int]) -> ImageRef:
        """The newest image of that name; where no stage wrote one for this face, the aligned input stands in."""
        owner, _, image = name.rpartition(".")
        earlier = self._before(stage)
        if owner:
            earlier = earlier[: [s.id for s in earlier].index(owner) + 1]
        for writer in reversed(earlier):
            row = self.rows.get(writer.id, {}).get(face)
            if image in writer.cls.writes and row and row.get("output_uri"):
                return row["output_uri"], image
        return self.rows[self.recipe.stages[0].id][face]["output_uri"], "aligned"

    def _image_item(self, stage: RecipeStage, image_id: str) -> Item:
        key = stage_key(image_id, WHOLE_IMAGE, self.digests[stage.id])
        return {"key": image_id, "image_id": image_id, "paths": list(self.images[image_id]), "stage_key": key}

    def _face_item(self, stage: RecipeStage, face: tuple[str, int]) -> Item:
        image_id, number = face
        return {
            "key": f"{image_id}:{number}",
            "image_id": image_id,
            "face": number,
            "stage_key": stage_key(image_id, number, self.digests[stage.id]),
            "images": self._images_for(stage, face),
            "metrics": self._metrics(face, stage),
            "detail": self.rows[self.recipe.stages[0].id][face].get("detail") or {},
        }

    def _to_paste(self) -> list[str]:
        """Images that get a file in the restored tree: every one that could be decoded and lost no face on the way."""
        detected = self.rows.get(self.recipe.stages[0].id, {})
        told = [self.rows.get(stage.id, {}) for stage in self._delivering()]
        lost = {image_id for rows in told for (image_id, _), row in rows.items() if row["state"] in FAILED}
        return [i for i in self.images if i not in lost and detected.get((i, WHOLE_IMAGE), {}).get("state") == "done"]

    def _paste_item(self, stage: RecipeStage, image_id: str) -> Item:
        faces = [f for f in self._faces_of(image_id) if self._restored(f, stage)]
        item = self._image_item(stage, image_id)
        return item | {"faces": [self._face_item(stage, f) for f in faces], "copy": not faces}

    def _restored(self, face: tuple[str, int], stage: RecipeStage) -> bool:
        rejected = any(
            self.rows.get(s.id, {}).get(face, {}).get("state") == "rejected_identity" for s in self.recipe.stages
        )
        return self._alive(face, stage) and not rejected

    def _gated(self, face: tuple[str, int], stage: RecipeStage) -> Row:
        return new_row(face[0], "skipped", "gate_not_met", _shut(stage), face=face[1])

    def _drop_what_lost_its_images(self, exists: Callable[[str], bool]) -> bool:
        """Drops rows whose images are gone although a stage that has still to run reads them."""
        lost: set[tuple[str, str]] = set()
        for stage in self.recipe.stages[1:]:
            for item in self.items(stage)[0]:
                for face in item.get("faces", [item]) if stage.scope == "image" else [item]:
                    gone = {uri for uri, _ in face["images"].values() if not exists(uri)}
                    lost |= {(face["image_id"], uri) for uri in gone}
        for rows in self.rows.values():
            for key in [k for k, row in rows.items() if (k[0], row.get("output_uri")) in lost]:
                del rows[key]
        if lost:
            self._drop_faces_without_detection()
        return bool(lost)

    def _drop_faces_without_detection(self) -> None:
        """An image whose detection lost a single face is detected again as a whole."""
        first = self.rows.get(self.recipe.stages[0].id, {})
        for image_id in self.images:
            if any(face not in first for face in self._faces_of(image_id)):
                for key in [(image_id, WHOLE_IMAGE), *self._faces_of(image_id)]:
                    first.pop(key, None)

    def _verdict(self, image_id: str) -> Row:
        faces = [self._judge(f) for f in self._faces_of(image_id)]
        pasted = self._pasted(image_id) or {}
        if pasted.get("reason_code") == "nothing_changed":
            faces = [_UNCHANGED if f.outcome == "restored" else f for f in faces]
        judged = [*self._judge_image(image_id), *faces]
        outcome = books.file_outcome(j.outcome for j in judged)
        decisive = next((j for j in judged if j.outcome == outcome), _UNCHANGED)
        return new_row(
            image_id,
            decisive.state,
            decisive.reason_code,
            decisive.reason,
            attempt=self.planned.get(image_id, {}).get("attempt", 0) + 1,
            detail={"outcome": outcome, "faces": Counter(f.outcome for f in faces)},
            output_uri=pasted.get("output_uri"),
            output_sha256=pasted.get("output_sha256"),
        )

    def _judge_image(self, image_id: str) -> list[Judged]:
        """What the image's own rows say, where they say more than that all went well."""
        detected = self.rows.get(self.recipe.stages[0].id, {}).get((image_id, WHOLE_IMAGE))
        if detected is None:
            return [Judged("pending", "pending", "pending")]
        pasted = self._pasted(image_id)
        return [Judged.of(row) for row in (detected, pasted) if row and row["reason_code"] not in _SAYS_NOTHING]

    def _judge(self, face: tuple[str, int]) -> Judged:
        rows = [row for s in self._delivering() if (row := self.rows.get(s.id, {}).get(face))]
        decisive = next((row for row in rows if row["state"] in FAILED), None)
        decisive = decisive or next(
            (row for row in rows if row["state"] in ("rejected_identity", "done_fallback")), None
        )
        if decisive is None and self._stopped(face):
            return Judged("left_alone", "skipped", "sharp_enough")
        return Judged.of(decisive) if decisive else Judged("restored", "done", "ok")

    def _delivering(self) -> tuple[RecipeStage, ...]:
        """The stages up to the last paste-back: what is only measured afterwards changes no verdict."""
        last = max(n for n, stage in enumerate(self.recipe.stages) if stage.scope == "image")
        return self.recipe.stages[: last + 1]

    def _pasted(self, image_id: str) -> Row | None:
        pasting = [s for s in self.recipe.stages[1:] if s.scope == "image"]
        return next((row for s in pasting if (row := self.rows.get(s.id, {}).get((image_id, WHOLE_IMAGE)))), None)


@dataclass(frozen=True)
class Judged:
    """The verdict on one face, or on an image as a whole."""

    outcome: books.FileOutcome
    state: str
    reason_code: str
    reason: str = ""

    @classmethod
    def of(cls, row: Row) -> Judged:
        """The verdict that a ledger row stands for."""
        code = row["reason_code"]
        return cls(books.outcome_of(row["state"], code), row["state"], code, row.get("reason") or "")


def new_row(image_id: str, state: str, reason_code: str, reason: str = "", **more: Any) -> Row:
    """A row that the driver itself writes, about an image as a whole unless `face` says otherwise."""
    now = datetime.now(UTC).isoformat()
    blank = {"face": WHOLE_IMAGE, "metrics": {}, "detail": {}, "output_uri": None, "device_ms": 0.0}
    said = {"image_id": image_id, "state": state, "reason_code": reason_code, "reason": reason}
    return {**blank, **said, "started": now, "finished": now, **more}


def _shut(stage: RecipeStage) -> str:
    said = [f"{stage.entry.when} does not hold"] if stage.entry.when else []
    return ", or ".join([*said, f"{stage.entry.unless} holds"] if stage.entry.unless else said)


_UNCHANGED = Judged("left_alone", "done", "nothing_changed")
_SAYS_NOTHING = ("ok", "nothing_changed")
