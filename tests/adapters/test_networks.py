from __future__ import annotations

import pytest
import torch

import texalign as ta
from texalign import synthetic
from texalign.adapters import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    full_image,
    orthographic,
    root_relative,
    translation_from_joints,
    weak_perspective,
)

SIZE = 64
HALF = (0.5, 0.5, 0.5)
MIRROR = torch.tensor([-1.0, 1.0, 1.0])


def normalised(image, mean, std):
    return (image - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def perturbed(vertices, metres):
    """Turned by 20° in the image's plane, and moved."""
    cosine, sine = 0.94, 0.342
    turn = vertices.new_tensor([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])
    middle = vertices.mean(dim=1, keepdim=True)
    return (vertices - middle) @ turn.T + middle + vertices.new_tensor([metres, 0.0, 0.0])


@pytest.fixture(scope="module")
def loss_fn():
    return ta.DenseTextureAlignmentLoss.from_pretrained(image_size=SIZE, token_count=256, reduction="none")


def root_relative_case(batch, root):
    calib = torch.eye(4).repeat(4, 1, 1)
    calib[:, [0, 1], [0, 1]], calib[:, :2, 2] = batch.camera.focal, batch.camera.principal - 0.5
    image = normalised(batch.image, HALF, HALF)
    return lambda v, r: root_relative(v * 5, r, calib, image)  # MobRecon's unit is 0.2 m


def full_image_case(batch, root):
    """The same camera, told as a crop of b pixels somewhere in a photograph."""
    box, img_center = torch.tensor([180.0, 256.0, 300.0, 128.0]), torch.full((4, 2), 5000.0)
    focal = batch.camera.focal[:, 0] * box / SIZE
    center = img_center - batch.camera.principal * (box / SIZE)[:, None] + box[:, None] / 2
    image = normalised(batch.image, IMAGENET_MEAN, IMAGENET_STD)
    return lambda v, t: full_image(v, t, image, center, box / 200, focal, img_center)


@pytest.mark.parametrize("case", [root_relative_case, full_image_case])
def test_the_loss_is_lower_at_the_truth_and_its_gradient_reaches_what_the_network_predicts(case, loss_fn):
    batch = synthetic.generate(4, SIZE, torch.Generator().manual_seed(8)).canonical()
    root = batch.joints[:, 0]
    adapt, true = case(batch, root), batch.vertices - root[:, None]
    vertices, output = perturbed(true, 0.02).requires_grad_(), root.clone().requires_grad_()
    truth, beside = (loss_fn(*adapt(v, output), generator=torch.Generator().manual_seed(0)) for v in (true, vertices))
    assert (beside - truth).mean() > 0.3
    beside.sum().backward()
    for value in (vertices, output):
        assert torch.isfinite(value.grad).all() and value.grad.flatten(1).norm(dim=1).gt(0).all()


class TestOrthographic:
    def test_projects_where_the_network_does(self):
        # By hand: s = 8, (tx, ty) = (0.01, −0.02), vertex (0.05, −0.03, 0.08).
        # 8 · (0.05 + 0.01) = 0.48, 8 · (−0.03 − 0.02) = −0.40; 112 · (1 + 0.48) = 165.76, 112 · (1 − 0.40) = 67.2.
        # Distance 200,000 / (224 · 8) = 111.6 m; Z moves (53.76, −44.8) by 0.08 / 111.6 of it: (−0.039, 0.032).
        vertices = torch.tensor([[[0.05, -0.03, 0.08], [0.05, -0.03, 0.0]]])
        inputs = orthographic(vertices, torch.tensor([[8.0, 0.01, -0.02]]), torch.zeros(1, 3, 224, 224))
        pixels = inputs.camera.project(inputs.vertices)[0]
        torch.testing.assert_close(pixels[1], torch.tensor([165.76, 67.20]), atol=2e-3, rtol=0)
        torch.testing.assert_close(pixels[0] - pixels[1], torch.tensor([-0.0385, 0.0321]), atol=2e-3, rtol=0)

    def test_takes_the_squeezed_camera_of_a_single_image(self):
        vertices, image = torch.zeros(1, 778, 3), torch.zeros(1, 3, 224, 224)
        one, batch = (orthographic(vertices, torch.tensor(cam), image) for cam in ([5.0, 0, 0], [[5.0, 0, 0]]))
        assert torch.equal(one.vertices, batch.vertices)

    def test_undoes_imagenet_and_hands_masks_on(self):
        image, mask = torch.rand(2, 3, 32, 32), torch.ones(2, 1, 32, 32)
        inputs = orthographic(
            torch.zeros(2, 778, 3), torch.ones(2, 3), normalised(image, IMAGENET_MEAN, IMAGENET_STD), mask, 0.5 * mask
        )
        torch.testing.assert_close(inputs.image, image)
        assert inputs.mask is mask and inputs.valid.unique().tolist() == [0.5]

    def test_skips_a_camera_that_is_none(self, loss_fn):
        batch = synthetic.generate(4, SIZE, torch.Generator().manual_seed(3)).canonical()
        cam = torch.tensor([[-1.0, 0, 0], [0.0, 0, 0], [torch.nan, 0, 0], [6.0, 0, 0]], requires_grad=True)
        vertices, image = batch.vertices - batch.joints[:, 9:10], normalised(batch.image, IMAGENET_MEAN, IMAGENET_STD)
        value, details = loss_fn(*orthographic(vertices, cam, image), return_details=True)
        assert details.skipped.tolist() == [True, True, True, False] and torch.isfinite(value).all()
        value.sum().backward()
        assert (cam.grad[:3] == 0).all() and cam.grad[3].norm() > 0


class TestWeakPerspective:
    def test_projects_where_frankmocap_does(self):
        # By hand: px = (X + tx) · s · 112 + 112 with s = 5, t = (0.02, 0.01), vertex (−0.06, 0.07, 0):
        # −0.04 · 5 · 112 + 112 = 89.6 and 0.08 · 5 · 112 + 112 = 156.8.
        vertices = torch.tensor([[[-0.06, 0.07, 0.0]]])
        inputs = weak_perspective(vertices, torch.tensor([[5.0, 0.02, 0.01]]), torch.zeros(1, 3, 224, 224))
        torch.testing.assert_close(
            inputs.camera.project(inputs.vertices)[0, 0], torch.tensor([89.6, 156.8]), atol=2e-3, rtol=0
        )

    def test_turns_bgr_into_rgb(self):
        image = torch.rand(1, 3, 32, 32)
        inputs = weak_perspective(torch.zeros(1, 778, 3), torch.ones(1, 3), normalised(image.flip(1), HALF, HALF))
        torch.testing.assert_close(inputs.image, image)

    def test_orders_vertices(self):
        vertices = torch.rand(1, 5, 3)
        inputs = weak_perspective(
            vertices, torch.ones(1, 3), torch.zeros(1, 3, 32, 32), vertex_order=torch.tensor([4, 0, 2])
        )
        moved = inputs.vertices - torch.tensor([1.0, 1.0, 2e5 / 32])
        torch.testing.assert_close(moved[..., :2], vertices[:, [4, 0, 2], :2])
        with pytest.raises(ValueError, match="vertex_order below 5, got 9"):
            weak_perspective(vertices, torch.ones(1, 3), torch.zeros(1, 3, 32, 32), vertex_order=torch.tensor([9]))


class TestRootRelative:
    def test_projects_where_mobrecon_does(self):
        # By hand: vertex (0.25, −0.5, 0.1) · 0.2 + root (0.01, 0.02, 0.58) = (0.06, −0.08, 0.6) m;
        # 480 · 0.06 / 0.6 + 60 = 108, 450 · (−0.08) / 0.6 + 70 = 10, whole numbers being pixel centres: 108.5, 10.5.
        calib = torch.eye(4)[None]
        calib[0, 0, 0], calib[0, 1, 1], calib[0, 0, 2], calib[0, 1, 2] = 480.0, 450.0, 60.0, 70.0
        vertices, root = torch.tensor([[[0.25, -0.5, 0.1]]]), torch.tensor([[0.01, 0.02, 0.58]])
        for matrix in (calib, calib[:, :3, :3]):
            inputs = root_relative(vertices, root, matrix, torch.zeros(1, 3, 128, 128))
            torch.testing.assert_close(inputs.camera.project(inputs.vertices)[0, 0], torch.tensor([108.5, 10.5]))

    def test_takes_pairs_apart(self):
        generator = torch.Generator().manual_seed(0)
        first, second = (torch.rand(2, 778, 3, generator=generator) for _ in range(2))
        roots, images = torch.rand(2, 2, 3, generator=generator), torch.rand(2, 2, 3, 16, 16, generator=generator)
        masks = torch.rand(2, 2, 16, 16, generator=generator)
        calib = torch.eye(4).repeat(2, 2, 1, 1)
        calib[:, :, :2, 2] = torch.rand(2, 2, 2, generator=generator)
        pair = root_relative(
            torch.cat([first, second], dim=2),
            torch.cat([roots[0], roots[1]], dim=1),
            torch.cat([calib[0], calib[1]], dim=1),
            torch.cat([images[0], images[1]], dim=1) * 2 - 1,
            torch.stack([masks[0], masks[1]], dim=1),
        )
        for view, vertices in enumerate((first, second)):
            alone = root_relative(vertices, roots[view], calib[view], images[view] * 2 - 1, masks[view])
            part = slice(2 * view, 2 * view + 2)
            for got, want in zip((pair.vertices, pair.image, pair.mask), (alone.vertices, alone.image, alone.mask)):
                assert torch.equal(got[part], want)
            assert torch.equal(pair.camera.principal[part], alone.camera.principal)
        torch.testing.assert_close(pair.image[2:], images[1])

    def test_refuses_a_pair_in_some_arguments_only(self):
        with pytest.raises(ValueError, match=r"root_relative: expected root \(2, 6\), got \(2, 3\)"):
            root_relative(torch.zeros(2, 778, 6), torch.zeros(2, 3), torch.zeros(2, 8, 4), torch.zeros(2, 6, 16, 16))


# A photograph of 1000 × 600, its crop a square of b = 200 · 1.28 = 256 pixels around (700, 250): one crop pixel each.
PHOTO = {
    "center": torch.tensor([[700.0, 250.0]]),
    "scale": torch.tensor([1.28]),
    "img_focal": torch.tensor([800.0]),
    "img_center": torch.tensor([[500.0, 300.0]]),
}
BLACK = torch.zeros(1, 3, 256, 256)


class TestFullImage:
    def test_projects_where_hawor_does(self):
        # By hand: vertex (0.02, −0.01, 0.05) + t (0.15, −0.04, 0.45) = (0.17, −0.05, 0.5) m;
        # 800 · 0.17 / 0.5 + 500 = 772 and 800 · (−0.05) / 0.5 + 300 = 220 in the photograph;
        # minus the corner (700 − 128, 250 − 128): (200, 98) in the crop.
        inputs = full_image(
            torch.tensor([[[0.02, -0.01, 0.05]]]), torch.tensor([[[0.15, -0.04, 0.45]]]), BLACK, **PHOTO
        )
        torch.testing.assert_close(inputs.camera.project(inputs.vertices)[0, 0], torch.tensor([200.0, 98.0]))
        torch.testing.assert_close(inputs.camera.principal, torch.tensor([[-72.0, 178.0]]))

    def test_resizes_crops(self):
        # Of twice the side: everything counts half from the corner (700 − 256, 250 − 256) = (444, −6): (164, 113).
        photo = {**PHOTO, "scale": torch.tensor([2.56])}
        inputs = full_image(torch.tensor([[[0.02, -0.01, 0.05]]]), torch.tensor([[0.15, -0.04, 0.45]]), BLACK, **photo)
        torch.testing.assert_close(inputs.camera.project(inputs.vertices)[0, 0], torch.tensor([164.0, 113.0]))
        # Six rows of the photograph above its edge: the first three of the crop show nothing.
        assert torch.equal(inputs.valid[0, 0, :, 0], (torch.arange(256) >= 3).float())

    def test_undoes_the_mirror_of_left_hands(self):
        # The network saw the mirrored photograph, in which its crop's middle was 999 − 700 = 299, and meant a hand
        # whose scale and place in the crop are pred_cam. What forward_step leaves behind follows, after its code.
        cam = torch.tensor([[6.0, 0.03, -0.02]])
        box, focal = 256.0, 800.0
        center, middle = torch.tensor([[299.0, 250.0]]), PHOTO["img_center"]

        def translation(cam, center):
            x = cam[:, 1] + 2 * (center[:, 0] - middle[:, 0]) / (box * cam[:, 0])
            y = cam[:, 2] + 2 * (center[:, 1] - middle[:, 1]) / (box * cam[:, 0])
            return torch.stack([x, y, 2 * focal / (box * cam[:, 0])], dim=1)

        vertices = torch.tensor([[[0.02, -0.01, 0.05], [-0.03, 0.04, -0.02]]])
        meant = full_image(vertices, translation(cam, center), BLACK, **{**PHOTO, "center": center})
        written = torch.tensor([[2 * 500.0 - 299.0 - 1, 250.0]])
        flipped = translation(cam * MIRROR[[1, 0, 2]], written)
        before = written.clone(), flipped.clone()
        inputs = full_image(vertices, flipped, BLACK, **{**PHOTO, "center": written}, do_flip=True)
        torch.testing.assert_close(inputs.camera.principal, meant.camera.principal)
        torch.testing.assert_close(inputs.vertices, meant.vertices)
        assert torch.equal(written, before[0]) and torch.equal(flipped, before[1])

    def test_flattens_clips(self):
        clip = {name: value[None].expand(2, 3, *value.shape[1:]) for name, value in PHOTO.items()}
        inputs = full_image(
            torch.zeros(6, 778, 3),
            torch.ones(6, 1, 3),
            torch.zeros(2, 3, 3, 64, 64),
            **clip,
            mask=torch.ones(2, 3, 1, 64, 64),
        )
        assert inputs.image.shape == (6, 3, 64, 64) and inputs.mask.shape == (6, 1, 64, 64)
        torch.testing.assert_close(inputs.camera.focal, torch.full((6, 2), 200.0))  # 800 · 64 / 256

    def test_refuses_other_shapes(self):
        with pytest.raises(ValueError, match=r"full_image: expected translation \(2, 3\), got \(1, 3\)"):
            full_image(torch.zeros(2, 778, 3), torch.zeros(1, 3), torch.zeros(2, 3, 64, 64), **PHOTO)


class TestTranslationFromJoints:
    def test_by_hand(self):
        # f = 100, middle (50, 50). Joints (0, 0, 0) and (0.1, 0, 0) seen at (50, 50) and (70, 50): t = (0, 0, 0.5).
        camera = ta.PinholeCamera(torch.full((1, 2), 100.0), torch.full((1, 2), 50.0))
        joints, pixels = torch.tensor([[[0.0, 0, 0], [0.1, 0, 0]]]), torch.tensor([[[50.0, 50], [70, 50]]])
        torch.testing.assert_close(
            translation_from_joints(joints, pixels, camera), torch.tensor([[0.0, 0.0, 0.5]]), atol=1e-6, rtol=0
        )

    def test_leaves_joints_without_confidence_out(self):
        batch = synthetic.generate(2, 16, torch.Generator().manual_seed(5))
        pixels, confidence = batch.camera.project(batch.joints), torch.ones(2, 21)
        wrong = pixels.clone()
        wrong[:, 3], confidence[:, 3] = 0.0, 0.0
        right = translation_from_joints(batch.joints, pixels, batch.camera, confidence)
        torch.testing.assert_close(translation_from_joints(batch.joints, wrong, batch.camera, confidence), right)
        assert not torch.allclose(translation_from_joints(batch.joints, wrong, batch.camera), right, atol=1e-3)

    def test_passes_no_gradient_and_takes_nan(self):
        batch = synthetic.generate(2, 16, torch.Generator().manual_seed(5))
        joints = batch.joints.clone().requires_grad_()
        assert not translation_from_joints(joints, batch.camera.project(joints), batch.camera).requires_grad
        joints = batch.joints.clone()
        joints[0, 0] = torch.nan
        found = translation_from_joints(joints, batch.camera.project(batch.joints), batch.camera)
        torch.testing.assert_close(found[0], torch.zeros(3), atol=1e-4, rtol=0)  # by the other joints
        joints[0] = torch.nan
        found = translation_from_joints(joints, batch.camera.project(batch.joints), batch.camera)
        assert found[0].tolist() == [0, 0, 0] and torch.isfinite(found).all()


@pytest.mark.parametrize(
    "call",
    [
        lambda v, i: weak_perspective(v, torch.zeros(2, 3), i[:, :2]),
        lambda v, i: root_relative(v, torch.zeros(2, 3), torch.zeros(2, 4, 4), i, torch.zeros(2, 9, 9)),
        lambda v, i: translation_from_joints(v, v, ta.PinholeCamera(torch.ones(2, 2), torch.ones(2, 2))),
    ],
)
def test_wrong_shapes_are_named(call):
    with pytest.raises(ValueError, match=r"^(weak_perspective|root_relative|translation_from_joints): expected"):
        call(torch.zeros(2, 778, 3), torch.zeros(2, 3, 64, 64))
