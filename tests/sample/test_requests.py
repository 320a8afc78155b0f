import pytest

from poet.sample.requests import SamplingMode, SamplingRequest, settings_of
from poet.tokens import tasks

NAN = float("nan")


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"temperature": NAN}, "temperature=nan must be a number of 0 or more"),
        ({"temperature": -0.5}, "temperature=-0.5 must be a number of 0 or more"),
        ({"temperature": float("inf")}, "temperature=inf must be"),
        ({"top_k": -1}, "top_k=-1 must be a whole number"),
        ({"top_k": 2**31}, "is more than any vocabulary"),
        ({"top_p": 0.0}, "top_p=0.0 must be above 0 and at most 1"),
        ({"top_p": NAN}, "top_p=nan must be above 0"),
        ({"guidance": NAN}, "guidance=nan must be a number of 0 or more"),
        ({"guidance": -1.0}, "guidance=-1.0 must be"),
        ({"seed": -1}, "seed=-1 must be a whole number"),
    ],
)
def test_refusals(fields, message):
    with pytest.raises(ValueError, match=message):
        SamplingRequest(**fields)


def test_guidance_needs_text():
    request = SamplingRequest(guidance=3.0)
    request.check_task(tasks.get("text_to_video"))
    with pytest.raises(ValueError, match="needs a text to leave out, and task 'video_to_audio'"):
        request.check_task(tasks.get("video_to_audio"))


def test_requests_of_one_mode_share_a_program():
    a = SamplingRequest(temperature=0.7, guidance=3.0, seed=1)
    b = SamplingRequest(temperature=0.9, guidance=6.0, seed=2)
    assert a.mode == b.mode != SamplingRequest().mode


def test_the_mode_of_a_batch_is_what_any_request_needs():
    mode = SamplingMode.of([SamplingRequest(temperature=0.0), SamplingRequest(top_k=3)])
    assert mode.has_greedy and not mode.is_greedy and mode.has_top_k and not mode.has_top_p
    assert SamplingMode.of([SamplingRequest(temperature=0.0)]).is_greedy


def test_settings_are_one_array_each():
    settings = settings_of([SamplingRequest(seed=2**32 - 1), SamplingRequest(top_k=7)])
    assert settings["seed"].tolist() == [2**32 - 1, 0] and settings["top_k"].tolist() == [0, 7]
