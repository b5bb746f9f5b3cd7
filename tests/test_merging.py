"""Merging saved adapters: equal to the run that merged them while training, and every wrong input refused in a sentence."""
import json
import shutil

import numpy as np
import pytest
import torch

from mbf_utils.adapter_files import load_adapter, load_config, save_adapter
from mbf_utils.errors import InputError
from mbf_utils.lora import Pair
from mbf_utils.merging import KIN, first_weight, kin, merge_adapters
from mbf_utils.methods import SLAO, METHODS

SITES = {"model.layers.0.self_attn.q_proj": (12, 10), "model.layers.0.self_attn.v_proj": (12, 6)}


def chain(count, step, rank=3, seed=0):
    """Adapters of which each continues the one before; the larger `step`, the further it goes."""
    g = torch.Generator().manual_seed(seed)
    lora = {path: Pair(torch.randn(rank, d_in, generator=g), torch.randn(d_out, rank, generator=g)) for path, (d_in, d_out) in SITES.items()}
    loras = [lora]
    for _ in range(count - 1):
        lora = {path: Pair(*(f + step * torch.randn(f.shape, generator=g) for f in pair)) for path, pair in lora.items()}
        loras.append(lora)
    return loras


def saved(tmp_path, loras, scaling=2.0, base="base", change=()):
    """The adapters as PEFT folders; `change` edits the last one's configuration."""
    folders = []
    for i, lora in enumerate(loras):
        folders.append(tmp_path / f"adapter{i}")
        save_adapter(lora, folders[-1], scaling, ["q_proj", "v_proj"], base)
    file = folders[-1] / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | dict(change)))
    return folders


def test_slao_merge_is_the_recurrence_written_out_by_hand(tmp_path):
    loras = chain(5, 0.3)
    out = merge_adapters(saved(tmp_path, loras), tmp_path / "out")
    for path, pair in load_adapter(out).items():
        B = loras[0][path].B.double().numpy()
        for i, lora in enumerate(loras[1:], 2):
            B = B + (lora[path].B.double().numpy() - B) / np.sqrt(i)
        assert np.allclose(pair.B, B, atol=1e-5)
        assert torch.equal(pair.A, loras[-1][path].A)


def test_merging_the_tuned_adapters_of_a_run_gives_the_run_s_result(tmp_path):
    loras, method = chain(4, 0.3), SLAO()
    for i, lora in enumerate(loras, 1):
        from mbf_utils.method import Task
        result = method.finish(lora, Task(i, "", [], 3, 2.0, SITES, 0))
    merged = load_adapter(merge_adapters(saved(tmp_path, loras), tmp_path / "out"))
    assert all(torch.equal(merged[path].B, result[path].B) and torch.equal(merged[path].A, result[path].A) for path in SITES)


def test_order_matters(tmp_path):
    folders = saved(tmp_path, chain(3, 0.3))
    one = load_adapter(merge_adapters(folders, tmp_path / "one"))
    two = load_adapter(merge_adapters(folders[::-1], tmp_path / "two"))
    assert any(not torch.allclose(one[path].B, two[path].B) for path in SITES)


def test_kinship_is_one_for_the_same_and_about_zero_for_strangers():
    a, b = chain(1, 0, seed=1)[0], chain(1, 0, rank=3, seed=2)[0]
    assert kin(a, a) == pytest.approx(1) and abs(kin(a, b)) < KIN
    assert kin(a, {path: Pair(pair.A, -pair.B) for path, pair in a.items()}) == pytest.approx(-1)


def test_independent_adapters_are_refused_for_slao_with_the_first_one_s_weight_and_the_alternatives(tmp_path):
    strangers = [chain(1, 0, seed=seed)[0] for seed in range(4)]
    with pytest.raises(InputError, match=r"independent.*0\.0619.*task_arithmetic"):
        merge_adapters(saved(tmp_path, strangers), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_first_weight_is_the_closed_form():
    for count in (1, 2, 4, 15):
        expected = np.prod([1 - i ** -0.5 for i in range(2, count + 1)])
        assert first_weight(SLAO(), count) == pytest.approx(expected, abs=1e-6)


def test_task_arithmetic_takes_independent_adapters_and_refuses_a_chain(tmp_path):
    strangers = [chain(1, 0, seed=seed)[0] for seed in range(3)]
    out = merge_adapters(saved(tmp_path, strangers), tmp_path / "sum", "task_arithmetic", weight=0.5, exact=True)
    for path, pair in load_adapter(out).items():
        assert torch.allclose(pair.B @ pair.A, 0.5 * sum(lora[path].B @ lora[path].A for lora in strangers), atol=1e-5)
    config = load_config(out)
    assert config["r"] == 9 and config["lora_alpha"] == pytest.approx(18)            # s = alpha / r is still 2
    (tmp_path / "chain").mkdir()
    with pytest.raises(InputError, match="count the first ones again.*slao"):
        merge_adapters(saved(tmp_path / "chain", chain(3, 0.1)), tmp_path / "no", "task_arithmetic")


@pytest.mark.parametrize("change, words", [
    ({"use_dora": True}, "use_dora"),
    ({"lora_bias": True}, "lora_bias"),
    ({"bias": "all"}, "bias"),
    ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    ({"use_rslora": True}, "rsLoRA"),
    ({"lora_alpha": 12}, "one scaling"),
    ({"alpha_pattern": {"v_proj": 1}}, "v_proj"),
    ({"init_lora_weights": "pissa"}, "init_lora_weights"),
    ({"base_model_name_or_path": "other"}, "one base model, found base and.*other"),
    ({"peft_type": "IA3"}, "IA3"),
    ({"a_setting_of_a_later_peft": 3}, "a_setting_of_a_later_peft"),
])
def test_an_adapter_that_would_be_merged_wrongly_is_refused(tmp_path, change, words):
    folders = saved(tmp_path, chain(3, 0.1), change=change)
    with pytest.raises(InputError, match=words):
        merge_adapters(folders, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter0", "adapter1", "adapter2"]


def test_other_ranks_modules_or_numbers_are_refused(tmp_path):
    loras = chain(2, 0.1)
    path = next(iter(SITES))
    other_rank = {p: Pair(pair.A[:2], pair.B[:, :2]) for p, pair in loras[0].items()}
    fewer = {path: loras[1][path]}
    nan = {p: Pair(pair.A, pair.B * float("nan")) for p, pair in loras[1].items()}
    for n, (lora, words) in enumerate([(other_rank, "ranks must agree"), (fewer, "same adapted modules"), (nan, "finite")]):
        (tmp_path / str(n)).mkdir()
        with pytest.raises(InputError, match=words):
            merge_adapters(saved(tmp_path / str(n), [loras[0], lora]), tmp_path / "out")


def test_equal_scalings_merge_whatever_their_notation(tmp_path):
    """alpha 4 and r 3 under rsLoRA are s = 4 / sqrt(3) for both adapters: one s, so the merge is right, and stays so on disk."""
    folders = saved(tmp_path, chain(2, 0.1))
    for folder in folders:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"use_rslora": True, "lora_alpha": 4}))
    config = load_config(merge_adapters(folders, tmp_path / "out"))
    assert not config["use_rslora"] and config["lora_alpha"] / config["r"] == pytest.approx(4 / 3 ** 0.5)


def test_a_scaling_of_its_own_for_a_module_survives(tmp_path):
    path = next(iter(SITES))
    out = merge_adapters(saved(tmp_path, chain(2, 0.1), scaling={p: 5.0 if p == path else 2.0 for p in SITES}), tmp_path / "out")
    config = load_config(out)
    from mbf_utils.adapter_files import scaling_of
    assert {p: scaling_of(config, p, 3) for p in SITES} == {p: pytest.approx(5.0 if p == path else 2.0) for p in SITES}


def test_adapters_of_some_layers_keep_to_those_layers(tmp_path):
    folders = saved(tmp_path, chain(2, 0.1))
    for folder in folders:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"layers_to_transform": [0]}))
    assert load_config(merge_adapters(folders, tmp_path / "out"))["target_modules"] == sorted(SITES)


def test_adapters_without_a_base_are_merged_with_a_warning(tmp_path):
    with pytest.warns(UserWarning, match="none of the adapters names its base"):
        merge_adapters(saved(tmp_path, chain(2, 0.1), base=""), tmp_path / "out")


def test_half_precision_stays_half_and_is_merged_in_float32(tmp_path):
    loras = chain(6, 0.2)
    half = [{p: Pair(*(f.bfloat16() for f in pair)) for p, pair in lora.items()} for lora in loras]
    merged = load_adapter(merge_adapters(saved(tmp_path, half), tmp_path / "out"))
    for path, pair in merged.items():
        B = half[0][path].B.double()
        for i, lora in enumerate(half[1:], 2):
            B += (lora[path].B.double() - B) / i ** 0.5
        assert pair.B.dtype == torch.bfloat16 and torch.equal(pair.B, B.float().bfloat16())


@pytest.mark.parametrize("arrange, words", [
    (lambda folders, out: shutil.rmtree(folders[1]), "adapter_config.json"),
    (lambda folders, out: (folders[1] / "adapter_model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0nonsense"), "safetensors"),
    (lambda folders, out: (folders[1] / "adapter_config.json").write_text("{"), "JSON"),
    (lambda folders, out: (out.mkdir(), (out / "mine.txt").write_text("x")), "in use"),
])
def test_broken_input_and_a_folder_in_use_are_one_sentence(tmp_path, arrange, words):
    folders, out = saved(tmp_path, chain(2, 0.1)), tmp_path / "out"
    arrange(folders, out)
    with pytest.raises(InputError, match=words):
        merge_adapters(folders, out)


def test_one_adapter_or_a_method_that_cannot_merge_is_refused(tmp_path):
    folders = saved(tmp_path, chain(2, 0.1))
    with pytest.raises(InputError, match="at least two"):
        merge_adapters(folders[:1], tmp_path / "out")
    with pytest.raises(InputError, match="without data"):
        merge_adapters(folders, tmp_path / "out", "olora")
    assert {name for name, make in METHODS.items() if make().card.merges == "independent"} == {
        "task_arithmetic", "ties", "ties_running", "dare", "dare_ties", "knots", "knots_running", "lora_lego", "lora_lego_running",
        "opcm"}


def test_no_space_leaves_nothing_half_written(tmp_path, monkeypatch):
    folders = saved(tmp_path, chain(2, 0.1))

    def full(*_):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr("mbf_utils.disk.commit", full)
    with pytest.raises(InputError, match="No space left"):
        merge_adapters(folders, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter0", "adapter1"]
