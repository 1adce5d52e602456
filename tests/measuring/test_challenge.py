"""The challenge's arithmetic: every total, rank and mark of its table, its files, and what is said where terms lack."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
from places import ROOT

from tasks.measuring.challenge import (
    PUBLISHED,
    MissingTerm,
    Protocol,
    ProtocolError,
    Scored,
    per_subset,
    protocol_of,
    read_landmarks,
    summarise,
    terms,
    total,
    validity,
    weighted,
)
from tasks.measuring.challenge_files import challenge_csv, markdown_row, place
from tasks.measuring.files import EvaluationFacts
from tasks.measuring.metrics import challenge_metrics

TABLE = Path(os.environ.get("MPSR_SHARED", ROOT.parent / "shared")) / "parity" / "score_table1.json"
DEVIATION = 1.1e-4
MPSR = next(row for row in PUBLISHED if row.team == "MiPortrait")


@pytest.fixture
def described():
    return tomllib.loads((ROOT / "data_manifests" / "ntire2025-realworld-face.toml").read_text())


@pytest.fixture
def protocol(described):
    return protocol_of(described)


def columns_of(row):
    return {name: getattr(row, name) for name in ("niqe", "clipiqa", "maniqa", "musiq", "qalign", "fid")}


def small(counts=(2, 1), thresholds=(0.5, 0.3), **more):
    subsets = {
        name: {"images": count, "identity_threshold": threshold}
        for name, count, threshold in zip("AB", counts, thresholds, strict=True)
    }
    return Protocol.model_validate({"subsets": subsets, "metrics": challenge_metrics(), **more})


def face(path, subset, **values):
    return Scored(path, subset, values)


FULL = {"niqe": 5.0, "clipiqa": 0.5, "maniqa": 0.25, "musiq": 60.0, "qalign": 4.0, "identity": 0.7}


class TestPublishedTable:
    def test_every_total_follows_from_its_columns(self):
        assert len(PUBLISHED) == 13
        assert max(abs(total(columns_of(row)) - row.total) for row in PUBLISHED) < DEVIATION

    def test_every_mark_and_rank_follows_from_totals_and_failures(self):
        assert [validity(row.failed) for row in PUBLISHED] == [row.rank is not None for row in PUBLISHED]
        ranked = sorted((row for row in PUBLISHED if validity(row.failed)), key=lambda row: -total(columns_of(row)))
        assert [row.rank for row in ranked] == list(range(1, 11))
        assert [place(total(columns_of(row)) + DEVIATION) for row in ranked] == list(range(1, 11))

    @pytest.mark.skipif(not TABLE.is_file(), reason=f"{TABLE} is not there")
    def test_rows_are_the_reports(self):
        facts = json.loads(TABLE.read_text())
        for row, fact in zip(PUBLISHED, facts["rows"], strict=True):
            assert (row.team, row.failed, row.total) == (fact["team"], fact["failed"], fact["total_paper"])
            assert ("N/A" if row.rank is None else str(row.rank)) == fact["rank"]
            assert columns_of(row) | {"adaface": row.identity} == {
                name: fact[name] for name in (*columns_of(row), "adaface")
            }
            assert total(columns_of(row)) == pytest.approx(fact["total_formula"], abs=1e-9)


class TestScore:
    def test_formula_by_hand(self):
        assert total({**FULL, "fid": 40.0}) == pytest.approx(0.5 + 0.25 + 0.6 + 0.8 + 0.5 + 0.6)

    def test_what_lies_beyond_the_scale_adds_nothing(self):
        assert terms({"niqe": 12.0, "fid": 130.0}) == {"niqe": 0, "fid": 0}

    @pytest.mark.parametrize("absent", [None, math.nan, math.inf])
    def test_missing_terms_are_named_and_never_zero(self, absent):
        with pytest.raises(MissingTerm, match="not measured: qalign, fid") as caught:
            total({**FULL, "qalign": absent})
        assert caught.value.terms == ("qalign", "fid")

    def test_ten_failures_are_ranked_and_eleven_are_not(self):
        assert validity(10)
        assert not validity(11)
        assert not validity(3, limit=2)


class TestManifest:
    def test_it_describes_the_whole_protocol(self, protocol, described):
        found = {name: (subset.images, subset.identity_threshold) for name, subset in protocol.subsets.items()}
        assert found == {
            "CelebA": (100, 0.5),
            "LFW-Test": (100, 0.6),
            "CelebChild-Test": (50, 0.6),
            "WebPhoto-Test": (100, 0.3),
            "Wider-Test": (100, 0.3),
        }
        assert (protocol.images, protocol.max_failures, protocol.fid_cap) == (450, 10, 3000)
        assert protocol.metrics == challenge_metrics()
        assert protocol.aligned
        assert described["aligned"]
        assert described["recipe"] == "mpsr-ntire2025"

    def test_a_row_of_the_challenges_table_is_read(self, protocol):
        text = (
            "filename,dataset,x1,y1,x2,y2,left_eye_x,left_eye_y,right_eye_x,right_eye_y,nose_x,nose_y,"
            "mouth_left_x,mouth_left_y,mouth_right_x,mouth_right_y\n"
            "0412,Wider-Test,109.9,105.6,394.6,442.9,193.52457,242.10179,322.06326,242.09256,257.77347,280.27856,"
            "205.99858,367.26022,309.2445,367.03583\n"
        )
        placed = read_landmarks(text, protocol.landmarks)["0412"]
        assert placed.subset == "Wider-Test"
        assert placed.points.shape == (5, 2)
        assert placed.points[2].tolist() == [257.77347, 280.27856]
        assert placed.points[4].tolist() == [309.2445, 367.03583]

    def test_tables_that_are_not_it_are_refused_by_column_and_line(self, protocol):
        table = protocol.landmarks
        header = ",".join([table.key, table.subset, *(column for pair in table.points for column in pair)])
        with pytest.raises(ProtocolError, match="there is no dataset"):
            read_landmarks("filename\n1\n", table)
        with pytest.raises(ProtocolError, match="line 2: expected ten numbers"):
            read_landmarks(f"{header}\na,A,{',' * 9}\n", table)
        row = "a,A," + ",".join("0123456789")
        with pytest.raises(ProtocolError, match="line 3: a has two rows"):
            read_landmarks(f"{header}\n{row}\n{row}\n", table)

    def test_a_section_that_is_wrong_is_named_and_none_is_none(self, described):
        assert protocol_of({"source": "a"}) is None
        described["evaluation"]["max_failure"] = 3
        with pytest.raises(ProtocolError, match=r"^mine: \[evaluation\] max_failure: Extra inputs are not permitted$"):
            protocol_of(described, "mine")


class TestMeans:
    def test_subsets_weigh_by_their_full_count(self):
        rows = [face("a", "A", musiq=10.0), face("b", "A", musiq=20.0), face("c", "B", musiq=60.0)]
        summary = summarise(rows, small(counts=(20, 10)))
        assert summary.subsets["A"].means == {"musiq": 15}
        assert summary.means == {"musiq": pytest.approx((15 * 20 + 60 * 10) / 30)}

    def test_complete_sets_give_the_plain_mean(self):
        draw = np.random.default_rng(0)
        rows = [face(str(n), "A" if n < 7 else "B", niqe=float(draw.random())) for n in range(10)]
        values = [row.values["niqe"] for row in rows]
        assert summarise(rows, small(counts=(7, 3))).means["niqe"] == pytest.approx(np.mean(values))
        assert summarise(rows).means["niqe"] == pytest.approx(np.mean(values))

    def test_subsets_keep_the_protocols_order_and_strangers_do_not_count(self):
        rows = [face("x", "stray", musiq=99.0), face("c", "B", musiq=60.0), face("a", "A", musiq=30.0)]
        subsets = per_subset(rows, small())
        assert list(subsets) == ["A", "B", "stray"]
        assert (subsets["stray"].expected, subsets["stray"].threshold) == (None, None)
        assert weighted(subsets) == {"musiq": pytest.approx(40)}

    def test_faces_without_a_number_are_left_out_and_counted_out(self):
        rows = [face("a", "A", musiq=None), face("b", "A", musiq=math.nan), face("c", "A", musiq=50.0)]
        subset = per_subset(rows, small())["A"]
        assert (subset.images, subset.means, subset.measured) == (3, {"musiq": 50}, {"musiq": 1})


class TestIdentity:
    def test_at_the_threshold_a_face_still_passes(self):
        rows = [face(str(n), "A", identity=value) for n, value in enumerate((0.5, 0.49999, 0.9))]
        assert per_subset(rows, small())["A"].identity_failures == 1

    def test_every_subset_has_its_own_threshold(self):
        rows = [face("a", "A", identity=0.4), face("b", "B", identity=0.4)]
        subsets = per_subset(rows, small())
        assert [subsets[name].identity_failures for name in "AB"] == [1, 0]

    def test_a_network_of_ones_own_judges_nothing(self):
        summary = summarise([face("a", "A", identity_onnx=0.1)], small())
        assert summary.identity_failures is None
        assert summary.valid is None

    def test_valid_needs_every_face_and_invalid_only_too_many(self):
        passing = [face("a", "A", identity=0.9), face("b", "A", identity=0.4), face("c", "B", identity=0.9)]
        assert summarise(passing, small(max_failures=1)).valid is True
        assert summarise(passing, small(max_failures=0)).valid is False
        assert summarise(passing[:2], small(max_failures=1)).valid is None
        assert summarise(passing[:2], small(max_failures=0)).valid is False
        assert summarise(passing).valid is None


ROWS = (
    face("A/1.png", "A", **FULL),
    face("A/2.png", "A", **FULL),
    face("B/3.png", "B", **FULL | {"identity": 0.2}),
)


class TestSummary:
    def test_a_whole_evaluation(self):
        summary = summarise(ROWS, small(), fid=40.0)
        assert summary.score == pytest.approx(total({**FULL, "fid": 40.0}))
        assert (summary.score_missing, summary.identity_failures, summary.valid, summary.images) == ((), 1, True, 3)
        assert sum(summary.score_terms.values()) == summary.score

    def test_a_missing_set_level_number_leaves_the_score_out(self):
        summary = summarise(ROWS, small())
        assert (summary.score, summary.score_missing) == (None, ("fid",))
        assert set(summary.score_terms) == {"clipiqa", "maniqa", "musiq", "qalign", "niqe"}

    def test_a_subset_without_a_term_leaves_the_score_out(self):
        rows = [*ROWS[:2], face("B/3.png", "B", **FULL | {"musiq": None})]
        summary = summarise(rows, small(), fid=40.0)
        assert (summary.score, summary.score_missing) == (None, ("musiq of B",))

    def test_nothing_measured_is_a_summary_too(self):
        summary = summarise([], small())
        assert summary.score is None
        assert set(summary.score_missing) == {"clipiqa", "maniqa", "musiq", "qalign", "niqe", "fid"}
        assert summary.subsets["A"].images == 0

    def test_facts_are_json(self):
        summary = summarise(ROWS, small(), fid=40.0)
        facts = json.loads(EvaluationFacts(subsets=summary.subsets, overall=summary).to_json())
        assert set(facts["overall"]) == {
            *("images", "means", "fid", "score", "score_terms", "score_missing", "identity_failures", "valid")
        }
        subset = facts["subsets"]["B"]
        assert (subset["expected"], subset["threshold"], subset["identity_failures"]) == (1, 0.3, 1)


class TestFiles:
    def read(self, text):
        return list(csv.reader(io.StringIO(text)))

    def test_totals_are_in_the_scripts_layout(self):
        lines = self.read(challenge_csv(ROWS, summarise(ROWS, small(), fid=40.0))[0])
        header = ["Dataset", "NIQE", "CLIP_IQA", "MANIQA", "MUSIQ", "QALIGN", "FID", "ID_Sim", "low_ID_Sim", "Total"]
        assert lines[0] == header
        assert [line[0] for line in lines[1:]] == ["A", "B", "All", "Weighted Score"]
        assert lines[1] == ["A", "5.0", "0.5", "0.25", "60.0", "4.0", "0", "0.7", "0", "0"]
        assert lines[2][-3:] == ["0.2", "1", "0"]
        assert lines[3][1:7] == ["5.0", "0.5", "0.25", "60.0", "4.0", "40.0"]
        weighted_line = dict(zip(header, lines[4], strict=True))
        assert float(weighted_line["QALIGN"]) == pytest.approx(0.8)
        assert (weighted_line["ID_Sim"], weighted_line["low_ID_Sim"]) == ("0", "0")
        assert float(weighted_line["Total"]) == pytest.approx(3.25)

    def test_pictures_are_in_the_scripts_layout(self):
        lines = self.read(challenge_csv(ROWS, summarise(ROWS, small()))[1])
        assert lines[0] == ["Filename", "CLIP_IQA", "Dataset", "ID_Sim", "MANIQA", "MUSIQ", "NIQE", "QALIGN"]
        assert lines[3] == ["3.png", "0.5", "B", "0.2", "0.25", "60.0", "5.0", "4.0"]

    def test_what_was_not_measured_is_empty_and_not_zero(self):
        rows = [face("A/1.png", "A", niqe=4.0, quality=0.3), face("B/2.png", "B", niqe=None)]
        totals, pictures = (self.read(text) for text in challenge_csv(rows, summarise(rows, small())))
        assert totals[1] == ["A", "4.0", "", "", "", "", "0", "", "", "0"]
        assert totals[2] == ["B", "", "", "", "", "", "0", "", "", "0"]
        assert totals[3][6] == ""
        assert totals[4] == ["Weighted Score", "0.6", "", "", "", "", "", "0", "0", ""]
        assert pictures == [["Filename", "Dataset", "NIQE"], ["1.png", "A", "4.0"], ["2.png", "B", ""]]


class TestMarkdown:
    def row(self, summary, name="mine"):
        lines = markdown_row(name, summary).splitlines()
        assert len({line.replace("\\|", "").count("|") for line in lines[: 2 + 14]}) == 1
        return [cell.strip(" *") for cell in re.split(r"(?<!\\)\|", lines[15])[1:-1]], "\n".join(lines[16:])

    def test_it_stands_beside_the_published_rows(self):
        rows = [face(str(n), "A", **columns_of(MPSR) | {"identity": 0.7}) for n in range(2)]
        rows += [face("c", "B", **columns_of(MPSR) | {"identity": 0.7})]
        summary = summarise(rows, small(), fid=MPSR.fid)
        text = markdown_row("mine", summary)
        assert "| 4 | MiPortrait | 4.2231 | 5.8223 | 0.9729 |" in text
        assert "| N/A | Fustar-fsr |" in text
        cells, caveats = self.row(summary)
        assert cells[:4] == ["(4)", "mine", "4.2231", "5.8223"]
        assert cells[-2:] == ["0.7000", "0"]
        assert caveats == ""

    def test_what_was_not_measured_is_a_dash_and_said_below(self):
        cells, caveats = self.row(summarise([face("a", "A", niqe=4.0)], small()))
        assert cells == ["–", "mine", "–", "4.0000", "–", "–", "–", "–", "–", "–", "–"]
        assert "clipiqa" in caveats
        assert "A 1 of 2, B 0 of 1" in caveats

    def test_a_term_that_most_faces_lack_costs_the_rank_and_is_said(self):
        rows = [face(str(n), "A", **columns_of(MPSR) | {"identity": 0.7}) for n in range(2)]
        rows += [face("c", "B", **columns_of(MPSR) | {"identity": 0.7})]
        del rows[1].values["qalign"]
        cells, caveats = self.row(summarise(rows, small(), fid=MPSR.fid))
        assert (cells[0], cells[2]) == ("–", "4.2231")
        assert "A 1 of 2" in caveats

    def test_too_many_failures_are_not_ranked(self):
        rows = [face(str(n), "A", **FULL | {"identity": 0.0}) for n in range(2)] + [face("c", "B", **FULL)]
        cells, _ = self.row(summarise(rows, small(max_failures=1), fid=40.0))
        assert (cells[0], cells[-1]) == ("N/A", "2")

    def test_other_pictures_than_the_challenges_are_for_orientation(self):
        cells, caveats = self.row(summarise([face("a", "", **FULL)], fid=40.0), name="a|b")
        assert cells[:2] == ["–", r"a\|b"]
        assert "other pictures" in caveats
