"""The formulas of sine and cosine."""

from __future__ import annotations

from typing import Any

from .exponentials import FORMATS, TINY, power_of_two
from .formulas import absolute, as_float32, as_float64, bits, constant, fma, from_bits, polynomial, select, table, width

# The bits of 1 / (2 pi) after the point, and all runs of 52 of them that begin at multiples of 26.
_TURNS = int(
    "28be60db9391054a7f09d5f47d4d377036d8a5664f10e4107f9458eaf7aef1586dc91b8e909374b801924bba827464873f877ac7"
    "2c4a69cfba208d7d4baed1213a671c09ad17df904e64758e60d4ce7d272117e2ef7e4a0ec7fe25fff7816603fbcbc462d6829b47"
    "db4d9fb3c9f2c26dd3d18fd9a797fa8b5d49eeb1faf97c5ecf41ce7de294a4ba9afed7ec47e357421580cc11bf1edaeafc33ef08",
    16,
)
_TURN_WORDS = tuple((_TURNS >> (1248 - 52 - 26 * j) & (1 << 52) - 1) * 2.0**-52 for j in range(44))
# Polynomials up to pi / 4, with their share of the result's relative error: 0.09 u, 0.01 u.
_SIN = (  # (sin(r) - r) / r^3 in r^2
    -0.1666666666666663, 0.008333333333322106, -0.00019841269829579832, 2.7557313617914327e-06,
    -2.5050747203178212e-08, 1.58961968087138e-10,
)  # fmt: skip
_COS = (  # (cos(r) - 1 + r^2/2) / r^4 in r^2
    0.041666666666666595, -0.001388888888887304, 2.4801587288841214e-05, -2.7557314176191374e-07,
    2.0875700409886606e-09, -1.135851364718546e-11,
)  # fmt: skip
_FULL_TURN = (6.283185307179586, 2.4492935982947064e-16)  # 2 pi in two parts


def _two_sum(a: Any, b: Any) -> tuple[Any, Any]:
    """a + b and what rounding it has lost (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _off_integer(x: Any, unit: float = 1.0) -> Any:
    """x less the nearest multiple of a power of two."""
    magic = FORMATS[64].magic * unit
    return x - ((x + magic) - magic)


def _turns(x: Any) -> tuple[Any, Any, Any]:
    """Quarter turns in a float64 x >= 0, of which the low two bits count, and the angle that is left, in two parts.

    x / (2 pi) to 150 bits after the point (Payne and Hanek's method): of 1 / (2 pi) only those bits take part
    which leave a fraction.
    """
    kind = FORMATS[64]
    magic = constant(x, kind.magic)
    x_exponent = from_bits((bits(x) >> kind.fraction) + bits(magic)) - (kind.magic + kind.bias)
    skipped = fma(x_exponent, 1 / 26, -2.5)  # runs of 26 bits, whose share is whole turns; rounded down below
    skipped = select(skipped > 0, skipped, 0.0) + kind.magic
    index = bits(skipped) - bits(magic)
    exponent = bits(fma(skipped - kind.magic, -26.0, kind.magic)) << kind.fraction
    x = x * power_of_two(exponent, 0, kind)
    products = []
    for i in range(4):
        word = table(index + 2 * i, _TURN_WORDS)
        product = x * word
        products.append((product, fma(x, word, -product)))
        x = x * 2.0**-52
    (a, a_low), (b, b_low), (c, c_low), (d, _) = products
    total, lost = _two_sum(_off_integer(_off_integer(a, 2.0**28)), _off_integer(a_low))
    total, lost_too = _two_sum(total, _off_integer(b))
    quarters = fma(total, 4.0, kind.magic)
    total = fma(quarters - kind.magic, -0.25, total)
    total, third = _two_sum(total, b_low)
    total, fourth = _two_sum(total, c)
    total, low = _two_sum(total, (lost + lost_too) + (third + fourth) + (c_low + d))
    angle = total * _FULL_TURN[0]
    angle_low = fma(total, _FULL_TURN[0], -angle) + fma(total, _FULL_TURN[1], low * _FULL_TURN[0])
    return bits(quarters), angle, angle_low


def _sin_at(quarters: Any, r: Any, r_low: Any) -> Any:
    """The sine of a number of quarter turns and an angle up to pi / 4."""
    square = r * r
    half = 0.5 * square
    sine = r + fma(r * square, polynomial(square, _SIN), r_low * (1 - half))
    one = 1 - half
    cosine = one + (((1 - one) - half) + fma(square * square, polynomial(square, _COS), -r * r_low))
    value = select(quarters & 1 == 1, cosine, sine)
    return from_bits(bits(value) ^ (quarters & 2) << 62)


def sin(x: Any) -> Any:
    """The sine, of any number however large."""
    if width(x) == 32:
        return as_float32(sin(as_float64(x)))
    size = absolute(x)
    value = _sin_at(*_turns(size))
    return select(size < TINY, x, from_bits(bits(value) ^ bits(x) ^ bits(size)))


def cos(x: Any) -> Any:
    """The cosine, of any number however large."""
    if width(x) == 32:
        return as_float32(cos(as_float64(x)))
    quarters, r, r_low = _turns(absolute(x))
    return _sin_at(quarters + 1, r, r_low)
