import numpy as np

from cyclemimic.data.check import check_clips
from cyclemimic.data.sources.folder import FolderSource
from cyclemimic.data.video import write_video
from cyclemimic.types import ClipInfo, Episode
from tests.unit.data_small import moving_square, video_folder
from tests.unit.test_data_cuts import shot
from tests.unit.test_data_video import encode


def test_the_report_says_what_is_there_and_what_is_wrong(tmp_path):
    video_folder(tmp_path, {"arm/1.mp4": 9, "hand/1.mp4": 12})
    write_video(tmp_path / "arm/cut.mp4", np.concatenate([shot(1, 10), shot(2, 8)]), 5)
    write_video(tmp_path / "hand/still.mp4", np.repeat(moving_square(1), 10, 0), 5)
    encode(tmp_path / "arm/uneven.mp4", moving_square(6), "libx264", "yuv420p", rate=10, times=[0, 1, 2, 5, 6, 7])
    (tmp_path / "arm/bad.mp4").write_bytes(b"")
    (tmp_path / "clips.jsonl").write_text(
        '{"file": "arm/1.mp4", "instruction": "go"}\n{"file": "hand/1.mp4", "instruction": ""}\n'
    )
    done = []
    report = check_clips(FolderSource(tmp_path), gap_s=0.6, progress=lambda n, of: done.append((n, of)))
    assert done == [(i, 6) for i in range(1, 7)]
    by_name = {clip.info.name: clip for clip in report.clips}
    assert by_name["arm/cut.mp4"].cuts.tolist() == [10]
    assert by_name["arm/cut.mp4"].pairs == 7 + 5 and by_name["arm/1.mp4"].pairs == 6
    assert by_name["hand/still.mp4"].still_pairs == by_name["hand/still.mp4"].pairs == 7
    assert by_name["arm/1.mp4"].still_pairs == 0
    text = "\n".join(report.lines())
    assert "6 clips, 1 with a sentence, 1 of no use" in text
    assert "arm: 3 clips, 35 frames (8 to 18 a clip), [5.0, 10.0] frames/s" in text
    assert "changed: arm/uneven.mp4: variable frame rate: 6 frames" in text
    assert "cuts: arm/cut.mp4: at 2.0 s" in text
    assert "16 pairs 0.6 s apart, nothing moves in 44%" in text
    assert len([line for line in report.lines() if "of no use:" in line and "arm/bad.mp4" in line]) == 1
    assert len(report.usable) == 5


class Plain:
    """A source that remarks nothing."""

    name = "plain"

    def clips(self):
        return [ClipInfo(name="a", embodiment="arm", fps=5.0, num_frames=2)]

    def read(self, clip):
        return Episode(info=clip, frames=moving_square(2))


def test_a_source_need_not_remark_and_a_clip_may_be_shorter_than_the_gap():
    report = check_clips(Plain(), gap_s=2.0)
    assert report.clips[0].pairs == 0 and "0 pairs 2.0 s apart" in "\n".join(report.lines())
