"""Which steps of a container count: masks given, masks that came with the sequences, and what they do to results."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import RecurrentContainer
from minirnn.errors import ShapeError
from minirnn.layers import Embedding, Input, Lambda, Layer, Masking
from minirnn.models import Model
from tests.reference.cells import Array

LEFT = np.array([[0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0]], bool)
HOLES = np.array([[1, 0, 1, 0], [0, 1, 1, 0], [0, 1, 0, 0]], bool)
ENGINES = ["reference", "numpy"]


@pytest.fixture(autouse=True)
def _in_float64() -> Iterator[None]:
    with mr.default_dtype("float64"):
        yield


def draw(*shape: int) -> Array:
    return np.random.default_rng(sum(shape) + len(shape)).normal(size=shape)


def two_sums(**options: Any) -> RecurrentContainer:
    """Two sequences, two states, every kind of output: running sums of x1 and of x2."""
    x1, x2, s1, s2 = Input((2,)), Input((3,)), Input((2,)), Input((3,))
    new1, new2 = s1 + x1, s2 + x2
    return RecurrentContainer(
        sequence_inputs=[x1, x2],
        sequence_outputs=[new1, new2 * 2],
        constant_outputs=[x1, new2],
        state_inputs=[s1, s2],
        state_outputs=[new1, new2],
        return_states=True,
        **options,
    )


def by_hand(x1: Array, x2: Array, mask: Array, backwards: bool = False) -> list[Array]:
    batch, time = mask.shape
    s1, s2 = np.zeros((batch, 2)), np.zeros((batch, 3))
    y1, y2, l1 = s1.copy(), s2.copy(), s1.copy()
    out1, out2 = [], []
    for t in reversed(range(time)) if backwards else range(time):
        for b in range(batch):
            if mask[b, t]:
                s1[b], s2[b] = s1[b] + x1[b, t], s2[b] + x2[b, t]
                y1[b], y2[b], l1[b] = s1[b], 2 * s2[b], x1[b, t]
        out1.append(y1.copy())
        out2.append(y2.copy())
    return [np.stack(out1, 1), np.stack(out2, 1), l1, s2.copy(), s1, s2]


def check(found: Any, wanted: list[Array]) -> None:
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(np.asarray(one), other, rtol=1e-13, atol=1e-13)


X1, X2 = draw(3, 4, 2), draw(3, 4, 3)


def with_mask(x: Array, mask: Array) -> mr.Tensor:
    tensor = mr.Tensor(x)
    tensor.mask = mr.Tensor(mask)
    return tensor


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("options", [{}, {"go_backwards": True}, {"unroll": True}, {"checkpoint": 3}], ids=str)
@pytest.mark.parametrize("mask", [LEFT, HOLES], ids=["left", "holes"])
def test_a_mask_governs_all_streams_and_states(mask: Array, options: Any, engine: str) -> None:
    with mr.engine(engine):
        found = two_sums(**options)([X1, X2], mask=mask)
    check(found, by_hand(X1, X2, mask, "go_backwards" in options))


def test_outputs_without_a_valid_step_are_zero_and_states_stay() -> None:
    start = [draw(3, 2), draw(3, 3)]
    found = [np.asarray(r) for r in two_sums()([X1, X2], mask=LEFT, states=start)]
    for output in found[:4]:
        np.testing.assert_array_equal(output[2], 0)
    np.testing.assert_array_equal(found[0][0, :2], 0)
    for state, before in zip(found[4:], start, strict=True):
        np.testing.assert_array_equal(state[2], before[2])


@pytest.mark.parametrize("form", ["array", "floats", "three axes", "Tensor", "float32 Tensor", "list"])
def test_forms_of_a_mask(form: str) -> None:
    mask: Any = {
        "array": LEFT,
        "floats": LEFT * 2.5,
        "three axes": LEFT[:, :, None],
        "Tensor": mr.Tensor(LEFT),
        "float32 Tensor": mr.Tensor(LEFT.astype("float32")),
        "list": LEFT.tolist(),
    }[form]
    check(two_sums()([X1, X2], mask=mask), by_hand(X1, X2, LEFT))


def test_the_sequences_masks_are_joined_by_and() -> None:
    check(two_sums()([with_mask(X1, LEFT), X2]), by_hand(X1, X2, LEFT))
    check(two_sums()([X1, with_mask(X2, HOLES)]), by_hand(X1, X2, HOLES))
    check(two_sums()([with_mask(X1, LEFT), with_mask(X2, HOLES)]), by_hand(X1, X2, LEFT & HOLES))


def test_a_mask_that_is_given_replaces_those_of_the_sequences() -> None:
    check(two_sums()([with_mask(X1, LEFT), X2], mask=HOLES), by_hand(X1, X2, HOLES))
    check(two_sums()([with_mask(X1, LEFT), X2], mask=np.ones((3, 4))), by_hand(X1, X2, np.ones((3, 4), bool)))


def test_masks_of_constants_and_states_do_not_count() -> None:
    x, c, s = Input((2,)), Input((2,)), Input((2,))
    container = RecurrentContainer(
        sequence_inputs=x, constant_inputs=c, state_inputs=s, state_outputs=s + x + c, constant_outputs=s + x + c
    )
    constant, state = draw(3, 2), draw(3, 2)
    found = container(X1, constants=with_mask(constant, HOLES[:, :2]), states=with_mask(state, HOLES[:, :2]))
    np.testing.assert_allclose(found, state + X1.sum(1) + 4 * constant)


@pytest.mark.parametrize("go_backwards", [False, True])
def test_the_mask_passes_on_to_sequence_outputs_only(go_backwards: bool) -> None:
    """D11: in the order of the outputs, so flipped under go_backwards."""
    found = two_sums(go_backwards=go_backwards)([with_mask(X1, HOLES), X2])
    wanted = HOLES[:, ::-1] if go_backwards else HOLES
    for output in found[:2]:
        np.testing.assert_array_equal(np.asarray(output.mask), wanted)
    assert [output.mask for output in found[2:]] == [None] * 4
    x, s = Input((2,)), Input((2,))
    bare = RecurrentContainer(
        sequence_inputs=x, state_inputs=s, state_outputs=s + x, sequence_outputs=s + x, go_backwards=go_backwards
    )
    np.testing.assert_array_equal(np.asarray(bare(X1, mask=HOLES[:, :, None]).mask), wanted)
    last = RecurrentContainer(sequence_inputs=x, state_inputs=s, state_outputs=s + x, constant_outputs=s + x)
    assert last(X1, mask=HOLES).mask is None
    assert bare(X1).mask is None


def test_masks_flow_through_a_model() -> None:
    """From Embedding and Masking through two containers to a layer that looks at the mask."""

    class ShowMask(Layer):
        def call(self, inputs: Any, mask: Any = None) -> Any:
            return mr.ops.zeros(inputs.shape[:2]) if mask is None else mr.ops.cast(mask, self.dtype)

    def running(width: int, **options: Any) -> RecurrentContainer:
        x, s = Input((width,)), Input((width,))
        return RecurrentContainer(
            sequence_inputs=x, state_inputs=s, state_outputs=s + x, sequence_outputs=s + x, **options
        )

    ids, data = Input((None,), dtype="int32"), Input((None, 2))
    embedded = Embedding(9, 2, mask_zero=True)(ids)
    first = running(2, go_backwards=True)(embedded)
    model = Model([ids, data], [first, ShowMask()(first), ShowMask()(running(2)(Masking()(data)))])
    numbers = np.array([[3, 1, 0, 0], [2, 5, 8, 0], [0, 0, 0, 0]])
    x = X1 * LEFT[:, :, None]
    y, first_mask, second_mask = [np.asarray(r) for r in model([numbers, x])]
    np.testing.assert_array_equal(first_mask, (numbers != 0)[:, ::-1])
    np.testing.assert_array_equal(second_mask, LEFT)
    table = model.get_weights()[0]
    np.testing.assert_allclose(y[:, -1], (table[numbers] * (numbers != 0)[:, :, None]).sum(1))


def test_a_mask_may_be_an_input_of_a_model() -> None:
    data, mask = Input((None, 2)), Input((None,), dtype="bool")
    x, s = Input((2,)), Input((2,))
    container = RecurrentContainer(sequence_inputs=x, state_inputs=s, state_outputs=s + x, constant_outputs=s + x)
    model = Model([data, mask], container(data, mask=mask))
    again = Model.from_config(model.get_config())
    for m in (model, again):
        np.testing.assert_allclose(np.asarray(m([X1, HOLES])), (X1 * HOLES[:, :, None]).sum(1))


def test_masks_without_sequences() -> None:
    s = Input((2,))
    container = RecurrentContainer(state_inputs=s, state_outputs=s + 1, sequence_outputs=s + 1, output_length=4)
    found = container(states=np.zeros((3, 2)), mask=HOLES)
    np.testing.assert_array_equal(np.asarray(found)[:, :, 0], np.cumsum(HOLES, axis=1))


@pytest.mark.parametrize("engine", ENGINES)
def test_neither_steps_nor_rows(engine: str) -> None:
    with mr.engine(engine):
        for batch, time in ((3, 0), (0, 4), (0, 0)):
            mask = np.ones((batch, time), bool)
            found = two_sums()([X1[:batch, :time], X2[:batch, :time]], mask=mask)
            assert [r.shape for r in found] == [r.shape for r in two_sums()([X1[:batch, :time], X2[:batch, :time]])]
            assert not any(np.asarray(r).any() for r in found)


@pytest.mark.parametrize("engine", ENGINES)
def test_valid_steps_alone_give_the_same_as_the_sequence_without_the_others(engine: str) -> None:
    row = np.array([0, 1, 1, 0, 0, 1], bool)
    x1, x2 = draw(1, 6, 2), draw(1, 6, 3)
    with mr.engine(engine):
        masked = [np.asarray(r) for r in two_sums()([x1, x2], mask=row[None])]
        alone = [np.asarray(r) for r in two_sums()([x1[:, row], x2[:, row]])]
    for one, other in zip(masked[:2], alone[:2], strict=True):
        np.testing.assert_array_equal(one[:, row], other)
    for one, other in zip(masked[2:], alone[2:], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("shape", [(3, 5), (4, 4), (3,), (3, 4, 2), (4, 3)])
def test_a_mask_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    container = two_sums(stateful=True)
    with pytest.raises(ShapeError, match=r"(?s)RecurrentContainer 'rec.*mask.*got: .*expected: \(batch=3, time=4\)"):
        container([X1, X2], mask=np.ones(shape))
    assert container.states is None


def test_a_layer_in_the_step_may_make_a_mask_of_its_own() -> None:
    """A mask on a constant reaches the layers of the step that read it."""
    seen = []

    class ReadMask(Layer):
        supports_masking = True

        def call(self, inputs: Any, mask: Any = None) -> Any:
            seen.append(None if mask is None else mask.shape)
            return inputs * mr.ops.cast(mr.ops.expand_dims(mask, 2), self.dtype) if mask is not None else inputs

    memory, s = Input((4, 2)), Input((2,))
    new = s + Lambda(lambda m: mr.ops.sum(m, axis=1))(ReadMask()(memory))
    container = RecurrentContainer(
        constant_inputs=memory, state_inputs=s, state_outputs=new, constant_outputs=new, output_length=3
    )
    found = container(constants=with_mask(X1, HOLES))
    np.testing.assert_allclose(found, 3 * (X1 * HOLES[:, :, None]).sum(1))
    assert seen[-1] == (3, 4)
