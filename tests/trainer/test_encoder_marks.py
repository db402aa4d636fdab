"""One frozen encoder from data to evaluation: the same one is known again, another is refused."""

from pathlib import Path
from typing import Any

import pytest

from rwml.cli.output import progress
from rwml.encoders import HttpEncoder
from rwml.errors import RewardError
from rwml.testing import BagOfWordsEncoder, OpenAIServer
from rwml_trainer.encoders import EncoderMark, check_encoder, make_encoder, mark_encoder
from rwml_trainer.recipes import Recipe, RewardRecipe
from rwml_trainer.small_models import MINILM
from rwml_trainer.testing import make_tiny_run
from rwml_trainer.world_predictors import evaluate


def test_a_served_encoder_is_known_by_its_angles() -> None:
    local = mark_encoder(BagOfWordsEncoder())
    with OpenAIServer() as server:
        served = mark_encoder(HttpEncoder(server.url, model="served"))
    assert (local.sha256, served.sha256) == (None, None)
    assert served.is_same_as(local)
    other = local.model_copy(update={"cosines": (0.5, *local.cosines[1:])})
    assert not other.is_same_as(local)


def test_a_local_encoder_is_known_by_its_files() -> None:
    mark = mark_encoder(make_encoder(RewardRecipe(encoder=MINILM)), name=MINILM)
    assert mark.name == MINILM
    assert mark.sha256 is not None
    assert len(mark.cosines) == 6
    assert not mark.is_same_as(mark.model_copy(update={"sha256": "0" * 64}))
    check_encoder(mark, None, of="nothing")
    other = mark_encoder(BagOfWordsEncoder())
    with pytest.raises(RewardError, match=f"data was measured with .*{MINILM}.* --encoder"):
        check_encoder(other, mark, of="data")


def test_evaluation_refuses_another_encoder_than_the_runs(
    shop_dataset: Path, tiny_recipe: Recipe, tiny_model: Path, tmp_path: Path
) -> None:
    run = make_tiny_run(tmp_path / "run", tiny_model)
    text: Any = (run / "run.json").read_text()
    mark = EncoderMark(name="another", sha256="0" * 64, cosines=(0.0,) * 6)
    text = text.replace('"encoder": null', f'"encoder": {mark.model_dump_json()}')
    (run / "run.json").write_text(text)
    with pytest.raises(RewardError, match=r"another encoder \(another\)"):
        evaluate(
            shop_dataset, ["base"], recipe=tiny_recipe, run=run, predictions=None, progress=progress
        )
