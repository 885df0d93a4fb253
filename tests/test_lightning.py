from __future__ import annotations

import copy
import io
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch
import numpy as np
import pytest
import pytorch_lightning
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import texalign as ta
from host_network import batch_of, step_of
from texalign._internal import MissingExtraError
from texalign.lightning import TextureAlignmentLogger, _callback_base
from texalign.loss import LossWatch

SIZE = 32
PACKAGES = pytest.mark.parametrize("package", [lightning.pytorch, pytorch_lightning], ids=["lightning", "pl"])
SEED = 11


def network(package, manual=False, outside=False, losses=1, **settings):
    """A LightningModule of either package, around the host; `outside` keeps the loss out of the module tree."""

    class Network(package.LightningModule):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = not manual
            steps = [step_of(SIZE, token_count=64, **settings) for _ in range(losses)]
            self.host = steps[0].host
            self.others = torch.nn.ModuleDict({} if outside else {f"loss{n}": s.loss_fn for n, s in enumerate(steps)})
            self.kept = (lambda: [step.loss_fn for step in steps]) if outside else (lambda: self.others.values())
            self.drawn, self.calls = [], 0

        def training_step(self, batch, batch_idx):
            camera = ta.PinholeCamera(batch.focal, batch.principal)
            loss = sum(loss_fn(self.host(batch.image), camera, batch.image) for loss_fn in self.kept())
            assert isinstance(loss, torch.Tensor) and loss.shape == ()
            self.calls += 1
            self.drawn.append(loss.detach())
            if manual:
                self.manual_backward(loss)
                for optimizer in self.optimizers():
                    optimizer.step()
                    optimizer.zero_grad()
            return loss

        def configure_optimizers(self):
            parts = [self.host.first, self.host.head] if manual else [self.host]
            return [torch.optim.SGD(part.parameters(), lr=1e-5) for part in parts]

    torch.manual_seed(SEED)
    return Network()


def fit(package, module, callbacks, folder, batches=None, logger=False, checkpoint=None, **settings):
    settings = {"enable_checkpointing": False, "max_epochs": 1} | settings
    trainer = package.Trainer(
        accelerator="cpu",
        devices=1,
        logger=logger,
        callbacks=callbacks,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **settings,
    )
    batches = [batch_of(2, SIZE, seed) for seed in range(5)] if batches is None else batches
    torch.manual_seed(SEED)
    trainer.fit(module, torch.utils.data.DataLoader(batches, batch_size=None), ckpt_path=checkpoint)
    return trainer


def hooks(module):
    return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in module.modules())


def is_picture(array):
    """Of several colours, not a blank."""
    return array.ndim == 3 and array.shape[2] == 3 and len(np.unique(array.reshape(-1, 3), axis=0)) > 100


def logger_like_wandb(package):
    """It takes pictures as Weights & Biases' does, and remembers them."""

    class Recorder(package.loggers.logger.Logger):
        name, version = "recorder", "0"

        def __init__(self):
            super().__init__()
            self.images = []

        def log_metrics(self, metrics, step=None):
            pass

        def log_hyperparams(self, *args, **kwargs):
            pass

        def log_image(self, key, images, step=None, **kwargs):
            self.images.append((key, images, step))

    return Recorder()


@PACKAGES
def test_every_logger_shows_the_pictures(package, tmp_path):
    board, arrays = package.loggers.TensorBoardLogger(str(tmp_path)), logger_like_wandb(package)
    callback = TextureAlignmentLogger(every_n_batches=3, count=2)
    fit(package, network(package), [callback], tmp_path, logger=[arrays, board])
    events = EventAccumulator(board.log_dir, size_guidance={"images": 0}).Reload()
    assert sorted(events.Tags()["images"]) == ["texture_alignment/alignment", "texture_alignment/texture"]
    for tag, width in (("texture_alignment/alignment", 7 * 192), ("texture_alignment/texture", 2 * 32)):
        images = events.Images(tag)
        assert [image.step for image in images] == [0, 3]
        for image in images:
            with Image.open(io.BytesIO(image.encoded_image_string)) as picture:
                assert is_picture(np.asarray(picture.convert("RGB")))
                assert 0 <= picture.width - width < 40
    found = [(key.split("/")[-1], step) for key, _, step in arrays.images]
    assert found == [("alignment", 0), ("texture", 0), ("alignment", 3), ("texture", 3)]
    for _, (image,), _ in arrays.images:
        assert image.dtype == np.uint8 and is_picture(image)
    assert not [*tmp_path.rglob("*.png")]


@pytest.mark.slow
@PACKAGES
@pytest.mark.parametrize("with_logger", [True, False], ids=["csv", "none"])
def test_without_a_logger_for_pictures_there_are_files(package, with_logger, tmp_path):
    logger = package.loggers.CSVLogger(str(tmp_path)) if with_logger else False
    # One callback, not in a list: the trainer must know it for a callback of its own.
    fit(package, network(package), TextureAlignmentLogger(every_n_batches=4, name="hands"), tmp_path, logger=logger)
    folder = Path(logger.log_dir) if with_logger else tmp_path
    names = [f"{kind}-{batch:08d}.png" for kind in ("alignment", "texture") for batch in (0, 4)]
    assert sorted(path.name for path in (folder / "hands").iterdir()) == names
    with Image.open(folder / "hands" / names[0]) as picture:
        assert is_picture(np.asarray(picture))


def one_hand(loss_fn=None, **settings):
    """Writing a file takes longer than anything else here."""
    return TextureAlignmentLogger(loss_fn, **({"count": 1} | settings))


def pictures(folder):
    return sorted(int(path.stem.split("-")[1]) for path in folder.rglob("alignment-*.png"))


@pytest.mark.slow
def test_batches_are_counted_not_optimiser_steps(tmp_path):
    module = network(lightning.pytorch, manual=True)
    trainer = fit(lightning.pytorch, module, [one_hand(every_n_batches=3)], tmp_path / "two_optimisers", max_epochs=2)
    assert trainer.global_step == 20 and module.calls == 10
    assert pictures(tmp_path / "two_optimisers") == [0, 3, 6, 9]
    folder = tmp_path / "accumulated"
    fit(lightning.pytorch, network(lightning.pytorch), [one_hand(every_n_batches=2)], folder, accumulate_grad_batches=4)
    assert pictures(folder) == [0, 2, 4]


@pytest.mark.slow
def test_a_resumed_run_counts_on_and_an_empty_batch_leaves_the_picture_to_the_next_one(tmp_path):
    batches = [batch_of(2, SIZE, seed) for seed in range(4)]
    batches[0] = batches[0].part(0, 0)
    trainer = fit(lightning.pytorch, network(lightning.pytorch), [one_hand(every_n_batches=3)], tmp_path, batches)
    assert pictures(tmp_path) == [1, 3]
    path = str(tmp_path / "saved.ckpt")
    trainer.save_checkpoint(path)
    assert "TextureAlignmentLogger" not in str(torch.load(path, weights_only=True)["callbacks"])
    logger = one_hand(every_n_batches=3)
    fit(lightning.pytorch, network(lightning.pytorch), [logger], tmp_path, batches, checkpoint=path, max_epochs=2)
    assert pictures(tmp_path) == [1, 3, 6]


@pytest.mark.slow
def test_several_losses_have_a_picture_each(tmp_path):
    fit(lightning.pytorch, network(lightning.pytorch, losses=2), [one_hand()], tmp_path)
    folders = {path.parent.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")}
    assert folders == {"texture_alignment/others.loss0", "texture_alignment/others.loss1"}


def test_a_loss_outside_the_module_must_be_named(tmp_path):
    module = network(lightning.pytorch, outside=True)
    with pytest.raises(ValueError, match="^TextureAlignmentLogger: expected a .* inside Network, or one given as loss"):
        fit(lightning.pytorch, module, [one_hand()], tmp_path)
    (loss_fn,) = module.kept()
    fit(lightning.pytorch, module, [one_hand(loss_fn)], tmp_path)
    assert pictures(tmp_path) == [0]
    assert hooks(loss_fn) == 0


def test_settings_that_make_no_sense_are_refused():
    for name in ("every_n_batches", "count"):
        with pytest.raises(ValueError, match=f"^TextureAlignmentLogger: expected {name} > 0, got 0"):
            TextureAlignmentLogger(**{name: 0})
    with pytest.raises(TypeError, match="^TextureAlignmentLogger: expected loss_fn to be a .*Loss, got Identity"):
        TextureAlignmentLogger(torch.nn.Identity())


class Inspector(lightning.pytorch.Callback):
    """Looks at the module after every batch, before and after the pictures."""

    def __init__(self):
        self.hooks, self.modes, self.keys, self.copies = [], [], [], []

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.hooks.append(hooks(pl_module))
        self.modes.append([module.training for module in pl_module.modules()])
        self.keys.append(set(pl_module.state_dict()))
        self.copies.append(copy.deepcopy(pl_module.others))
        assert pickle.loads(pickle.dumps(pl_module.others)) is not None


@pytest.mark.parametrize("precision", ["32-true", pytest.param("bf16-mixed", marks=pytest.mark.slow)])
def test_training_is_the_same_with_and_without(precision, tmp_path):
    """The same draws of observations, losses and weights, to the bit; the same modes, buffers and state."""
    results = []
    for callbacks in ([], [one_hand(every_n_batches=2)]):
        inspector = Inspector()
        module = network(lightning.pytorch, train_texture=True)
        module.others.train()
        fit(lightning.pytorch, module, [inspector, *callbacks], tmp_path, precision=precision)
        results.append((torch.stack(module.drawn), module.state_dict(), torch.rand(1), inspector))
    (losses, weights, random, plain), (watched_losses, watched_weights, watched_random, watched) = results
    assert torch.equal(losses, watched_losses) and torch.equal(random, watched_random)
    assert weights.keys() == watched_weights.keys()
    assert all(torch.equal(weights[name], watched_weights[name]) for name in weights)
    assert watched.modes == plain.modes and watched.keys == plain.keys
    assert set(plain.hooks) == {0} and set(watched.hooks) == {2}
    for copied in watched.copies:
        (hook,) = copied["loss0"]._forward_hooks.values()
        assert hook.__self__.sighting is None and not hook.__self__.wanted
    assert pictures(tmp_path) == [0, 2, 4]


def test_nothing_is_left_after_the_run_or_after_an_error(tmp_path):
    logger, module = pickle.loads(pickle.dumps(TextureAlignmentLogger())), network(lightning.pytorch)
    # A trial run, which writes nothing.
    fit(lightning.pytorch, module, [logger], tmp_path, logger=True, fast_dev_run=2)
    assert hooks(module) == 0 and not [*tmp_path.rglob("*")]

    def fail(*args):
        assert hooks(module) > 0
        raise RuntimeError("in the middle")

    module.training_step = fail
    with pytest.raises(RuntimeError, match="in the middle"):
        fit(lightning.pytorch, module, [logger], tmp_path)
    assert hooks(module) == 0


def test_other_processes_do_not_watch():
    module = network(lightning.pytorch)
    logger = one_hand()
    logger.on_fit_start(SimpleNamespace(is_global_zero=False), module)
    assert hooks(module) == 0
    trainer = SimpleNamespace(fit_loop=SimpleNamespace(total_batch_idx=0))
    logger.on_train_batch_start(trainer, module, None, 0)
    logger.on_train_batch_end(trainer, module, None, None, 0)


def watched_call(step, batch, count=1, **options):
    watch = LossWatch(count)
    watch.attach(step.loss_fn)
    watch.wanted = True
    answer = step(batch, generator=torch.Generator().manual_seed(0), **options)
    return watch, answer


def test_the_watch_sees_the_step_itself_and_its_first_samples():
    step, batch = step_of(SIZE), batch_of(3, SIZE)
    right = torch.tensor([False, True, True])
    expected, details = step(batch, generator=torch.Generator().manual_seed(0), is_right=right, return_details=True)
    watch, loss = watched_call(step, batch, 2, is_right=right)
    assert torch.equal(loss, expected)
    seen = watch.sighting
    assert torch.equal(seen.image, batch.image[:2]) and torch.equal(seen.is_right, right[:2])
    for name in ("per_sample", "texture", "fitted", "residual", "evidence", "coverage", "skipped"):
        assert torch.equal(getattr(seen.details, name), getattr(details, name)[:2]), name
    rendered = seen.details.rendering
    assert torch.equal(rendered.image, details.rendering.image[:2]) and len(rendered.dropped) == 2
    for tensor in (seen.details.per_sample, rendered.image, rendered.uv):
        assert not tensor.requires_grad
    assert rendered.image.untyped_storage().nbytes() == rendered.image.numel() * 4  # not the whole batch's
    watch.detach()
    assert hooks(step) == 0 and watch.sighting is None


def test_a_caller_that_asked_for_details_gets_them_and_other_hooks_notice_nothing():
    step, batch = step_of(SIZE), batch_of(2, SIZE)
    noticed = []
    step.loss_fn.register_forward_pre_hook(lambda module, args, kwargs: noticed.append(kwargs), with_kwargs=True)
    step.loss_fn.register_forward_hook(lambda module, args, output: noticed.append(output))
    watch, (loss, details) = watched_call(step, batch, return_details=True)
    assert loss.shape == () and isinstance(details, ta.LossDetails)
    watch.detach()
    watched_call(step, batch)
    assert "return_details" not in noticed[2] and isinstance(noticed[3], torch.Tensor)


@pytest.mark.slow
def test_the_watch_works_on_a_compiled_step():
    step, batch = step_of(SIZE), batch_of(2, SIZE)
    expected = step(batch, generator=torch.Generator().manual_seed(0))
    watch = LossWatch(1)
    watch.attach(step.loss_fn)
    torch._dynamo.reset()
    compiled = torch.compile(step, backend="eager")
    for wanted in (False, True, False, True):
        watch.sighting, watch.wanted = None, wanted
        loss = compiled(batch, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(loss, expected)
        assert (watch.sighting is not None) == wanted


@pytest.mark.parametrize("missing", [("lightning.pytorch", "pytorch_lightning"), ("PIL",)])
def test_what_is_missing_is_named_with_the_command_that_installs_it(missing, monkeypatch):
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r'pip install "texalign\[lightning\]"'):
        _callback_base()


def test_a_callback_is_one_of_every_package_that_is_there(monkeypatch):
    assert issubclass(TextureAlignmentLogger, lightning.pytorch.Callback)
    assert issubclass(TextureAlignmentLogger, pytorch_lightning.Callback)
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    alone = _callback_base()
    assert issubclass(alone, pytorch_lightning.Callback) and not issubclass(alone, lightning.pytorch.Callback)
