"""The formulas of exponentials, logarithms, powers and what is made of them.

The methods are the usual ones (J.-M. Muller, Elementary Functions, 3rd ed., Birkhaeuser 2016): the argument is
reduced to a small interval, where a polynomial does the work, made by Remez's exchange algorithm for the least
relative error of the whole function.  What decides the last bit is carried in two parts.  `u` is half the
distance from 1 to the next number: 2^-24 or 2^-53.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from .formulas import (
    absolute,
    as_float32,
    as_float64,
    bits,
    constant,
    copysign,
    fma,
    from_bits,
    polynomial,
    select,
    width,
)


class Format(NamedTuple):
    """What differs between float32 and float64."""

    fraction: int  # bits of the significand that are stored
    bias: int  # of the exponent
    smallest: float  # normal number
    ln2_high: float  # with so many trailing zeros that its products with exponents are exact
    ln2_low: float
    root_half: int  # the bit pattern of the square root of 1/2
    overflow: float  # exp of more is infinite
    underflow: float  # exp of less is zero
    tail: int  # so much is added to exponents where they would be too small
    tanh_one: float  # tanh of more is 1
    tanh_middle: float  # where one formula of tanh takes over from the other
    # Remez polynomials, with the bound on their share of the result's relative error:
    exp: tuple[float, ...]  # (e^r - 1 - r) / r^2 for |r| < 0.347; 0.07 u, 0.08 u
    exp2: tuple[float, ...]  # 2^f / 2 for |f| < 0.5005; 0.3 u, 0.3 u
    log: tuple[float, ...]  # (log(1 + f) - f + f^2/2) / f^3 from sqrt(1/2) - 1 to sqrt(2) - 1; 0.13 u, 0.1 u
    tanh: tuple[float, ...]  # (tanh(x) - x) / x^3 in x^2 for |x| < tanh_middle; 0.21 u, 0.09 u

    @property
    def magic(self) -> float:
        """Added to a number, it leaves the nearest integer in the low bits."""
        return 1.5 * 2.0**self.fraction


FORMATS = {
    32: Format(
        fraction=23,
        bias=127,
        smallest=2.0**-126,
        ln2_high=0.693145751953125,
        ln2_low=1.4286068203094172e-06,
        root_half=0x3F3504F3,
        overflow=89.0,
        underflow=-105.0,
        tail=40,
        tanh_one=10.0,
        tanh_middle=0.85,
        exp=(0.49999994, 0.1666652, 0.04166837, 0.008368777, 0.0013816229),
        exp2=(0.5, 0.3465736, 0.12011324, 0.02775166, 0.0048092165, 0.00066995395, 7.677638e-05),
        log=(0.3333333, -0.25000823, 0.20001227, -0.16623357, 0.14201756, -0.13160188, 0.12761582, -0.07634476),
        tanh=(-0.33333266, 0.1333148, -0.05379647, 0.02112111, -0.007142851, 0.0014401907),
    ),
    64: Format(
        fraction=52,
        bias=1023,
        smallest=2.0**-1022,
        ln2_high=6.93147180369123816490e-01,
        ln2_low=1.90821492927058770002e-10,
        root_half=0x3FE6A09E667F3BCD,
        overflow=710.0,
        underflow=-746.0,
        tail=200,
        tanh_one=20.0,
        tanh_middle=0.7,
        exp=(
            0.5000000000000011, 0.16666666666666416, 0.041666666666529094, 0.008333333333492083,
            0.0013888888943939764, 0.00019841269513375996, 2.480149275030657e-05, 2.7557578839430163e-06,
            2.763038160632451e-07, 2.500290662800082e-08,
        ),
        exp2=(
            0.5, 0.34657359027997264, 0.12011325347955067, 0.027752054332410046, 0.004809064553796847,
            0.0006666779073385127, 7.701765228851403e-05, 7.626366749616463e-06, 6.607717482569582e-07,
            5.089098130781733e-08, 3.53692059835894e-09, 2.2176903063384813e-10,
        ),
        log=(
            0.3333333333333314, -0.24999999999987976, 0.20000000000066617, -0.16666666669825853,
            0.14285714280092804, -0.1249999969144576, 0.1111111114748025, -0.1000001520615373,
            0.09090923931501557, -0.08332913542410335, 0.07691529824870713, -0.07149439503388981,
            0.06684589071901402, -0.06196678348494381, 0.05668377714545934, -0.05677785013679495,
            0.06503492020097212, -0.05981701460349728, 0.026150913088844575,
        ),
        tanh=(
            -0.3333333333333309, 0.13333333333298886, -0.053968253951440275, 0.021869488123508085,
            -0.008863229575884935, 0.0035920731067354376, -0.0014554944219369508, 0.0005885788001807617,
            -0.00023483825282158473, 8.812490013816713e-05, -2.7067618445156608e-05, 4.800364124514815e-06,
        ),
    ),
}  # fmt: skip
_LOG2_E = 1.4426950408889634
TINY = 2.0**-60  # f(x) = x for functions of slope 1 at 0


# exponentials ------------------------------------------------------------------------------------
def _integer_part(x: Any, factor: float, kind: Format) -> tuple[Any, Any]:
    """The integer next to factor * x: as an exponent (its bits where a float has those), and as a float."""
    shifted = fma(x, factor, kind.magic)
    return bits(shifted) << kind.fraction, shifted - kind.magic


def power_of_two(exponent: Any, more: int, kind: Format) -> Any:
    """2^(n + more) for n as `_integer_part` gives it."""
    return from_bits(exponent + ((kind.bias + more) << kind.fraction))


def exp(x: Any) -> Any:
    """e^x."""
    kind = FORMATS[width(x)]
    exponent, n = _integer_part(x, _LOG2_E, kind)
    r = fma(n, -kind.ln2_low, fma(n, -kind.ln2_high, x))
    mantissa = 1 + fma(polynomial(r, kind.exp), r * r, r)
    return _limits_of_exp(x, _scaled(mantissa, x, exponent, kind), kind)


def _scaled(mantissa: Any, x: Any, exponent: Any, kind: Format) -> Any:
    """mantissa * 2^n in two steps, because 2^n alone may be too large or too small; x is about n log 2."""
    deep = x < 0.8 * kind.underflow
    scale = power_of_two(exponent, -1, kind)
    scale = select(deep, from_bits(bits(scale) + (kind.tail << kind.fraction)), scale)
    return mantissa * scale * select(deep, constant(scale, 2.0 ** (1 - kind.tail)), 2.0)


def _limits_of_exp(x: Any, result: Any, kind: Format) -> Any:
    return select(x < kind.underflow, 0.0, select(x > kind.overflow, math.inf, result))


def _expm1_in_parts(x: Any, kind: Format) -> tuple[Any, Any, Any]:
    """The exponent of 2^n, and r and v with x = n log 2 + r' and e^r' - 1 = r + v; r is exact."""
    exponent, n = _integer_part(x, _LOG2_E, kind)
    high, low = fma(n, -kind.ln2_high, x), n * -kind.ln2_low
    r = high + low
    return exponent, high, fma(polynomial(r, kind.exp), r * r, low)


def expm1(x: Any) -> Any:
    """e^x - 1."""
    kind = FORMATS[width(x)]
    exponent, r, v = _expm1_in_parts(x, kind)
    half = power_of_two(exponent, -1, kind)
    result = 2 * fma(half, v, fma(half, r, half - 0.5))
    result = select(x < -40.0, -1.0, select(x > kind.overflow, math.inf, result))
    return select(absolute(x) < TINY, x, result)


def elu(x: Any, alpha: Any) -> Any:
    """x above 0, alpha (e^x - 1) below: in two parts, so that alpha costs no second rounding."""
    kind = FORMATS[width(x)]
    exponent, r, v = _expm1_in_parts(x, kind)
    scale = power_of_two(exponent, 0, kind)
    first = fma(scale, r, scale - 1)
    high = fma(scale, v, first)
    low = fma(scale, v, (first - high) + fma(scale, r, (scale - 1) - first))
    result = fma(alpha, high, alpha * low)
    result = select(x < -40.0, -alpha, select(x > -TINY, alpha * x, result))
    return select(x > 0, x, result)


def sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x) = s / (s + e^r), s a power of two.

    The denominator's rounding error is known exactly and taken back after the division.
    """
    kind = FORMATS[width(x)]
    exponent, n = _integer_part(x, _LOG2_E, kind)
    r = fma(n, kind.ln2_low, fma(n, kind.ln2_high, -x))
    rest = fma(polynomial(r, kind.exp), r * r, r)
    # Far down, s is nothing beside e^r; there it is kept larger, so that only the last product can be subnormal.
    deep = x < 0.66 * kind.underflow
    s = power_of_two(exponent, 0, kind)
    s = select(deep, from_bits(bits(s) + (kind.tail << kind.fraction)), s)
    one = s + 1  # the part of the denominator that is there early
    denominator = one + rest
    error = ((one - denominator) + rest) + (s - (one - 1))
    inverse = 1 / denominator
    result = s * inverse
    result = fma(inverse * error, -result, result)
    result = result * select(deep, constant(x, 2.0**-kind.tail), 1.0)
    return select(x > 40.0, 1.0, select(x < kind.underflow, 0.0, result))


def tanh(x: Any) -> Any:
    """1 - 2 / (e^2x + 1), and where that cancels an odd polynomial."""
    kind = FORMATS[width(x)]
    size = absolute(x)
    exponent, n = _integer_part(size, 2 * _LOG2_E, kind)
    f = fma(size, 2 * _LOG2_E, -n)
    half_exp = from_bits(bits(polynomial(f, kind.exp2)) + exponent)
    large = 1 - 1 / (half_exp + 0.5)
    large = select(size > kind.tanh_one, 1.0, large)
    square = x * x
    small = fma(polynomial(square, kind.tanh), square * x, x)
    return copysign(select(size >= kind.tanh_middle, large, small), x)  # this way round NaN stays NaN


# logarithms --------------------------------------------------------------------------------------
def _exponent_of(x: Any, kind: Format) -> tuple[Any, Any]:
    """k with x = 2^k m and m from sqrt(1/2) to sqrt(2): as an exponent's bits, and as a float."""
    k = (bits(x) - kind.root_half) >> kind.fraction
    magic = constant(x, kind.magic)
    return k << kind.fraction, from_bits(bits(magic) + k) - magic


def _log_from_parts(k: Any, f: Any, rest: Any, kind: Format) -> Any:
    """k log 2 + log(1 + f) + rest, for a small rest."""
    first = fma(k, kind.ln2_high, f)
    rounded_off = fma(k, kind.ln2_high, -first) + f
    rest = fma(k, kind.ln2_low, rounded_off + rest)
    return first + fma(f * f, fma(polynomial(f, kind.log), f, -0.5), rest)


def log(x: Any) -> Any:
    """The natural logarithm."""
    kind = FORMATS[width(x)]
    subnormal = x < kind.smallest
    normal = select(subnormal, x * 2.0 ** (kind.fraction + 1), x)
    exponent, k = _exponent_of(normal, kind)
    f = from_bits(bits(normal) - exponent) - 1
    k = select(subnormal, k - (kind.fraction + 1), k)
    return _limits_of_log(x, x, _log_from_parts(k, f, -0.0, kind))  # adding -0 changes nothing


def _limits_of_log(x: Any, argument: Any, result: Any) -> Any:
    """log(argument) for an argument that is no positive number: NaN, -inf at zero, +inf at itself."""
    below = select(argument == 0, constant(x, -math.inf), math.nan)
    return select(argument > 0, select(x < math.inf, result, x), below)


def log1p(x: Any) -> Any:
    """log(1 + x)."""
    kind = FORMATS[width(x)]
    sum_ = 1 + x
    exponent, k = _exponent_of(sum_, kind)
    scale = power_of_two(-exponent, 2, kind)  # 2^(2 - k): 2^-k may be subnormal
    quarter, offset = 0.25 * x, fma(scale, 0.25, -1.0)
    f = fma(scale, quarter, offset)  # from x itself, so nothing is lost to the rounding of 1 + x
    result = _limits_of_log(x, sum_, _log_from_parts(k, f, fma(scale, quarter, offset - f), kind))
    return select(absolute(x) < TINY, x, result)


def softplus(x: Any) -> Any:
    """log(1 + e^x) = max(x, 0) + log(1 + e^-|x|), the exponential in two parts."""
    kind = FORMATS[width(x)]
    y = -absolute(x)
    exponent, r, v = _expm1_in_parts(y, kind)
    rest = r + v
    high = 1 + rest
    low = (1 - high) + rest
    high = select(y < kind.underflow, 0.0, _scaled(high, y, exponent, kind))
    low = select(y < -60.0, 0.0, low * power_of_two(exponent, 0, kind))
    folded = high > math.sqrt(2) - 1
    half = 0.5 * high
    f = select(folded, half - 0.5, high)
    low = select(folded, fma(low, 0.5, half - (f + 0.5)), low)
    k = select(folded, constant(x, 1.0), 0.0)
    # The derivative of the logarithm at f is 1 / (1 + f), and `low` needs few bits.
    return select(x > 0, x, 0.0) + _log_from_parts(k, f, fma(low * f, -0.75, low), kind)


# others ------------------------------------------------------------------------------------------
def softsign(x: Any) -> Any:
    """x / (1 + |x|)."""
    size = absolute(x)
    return select(size == math.inf, copysign(constant(x, 1.0), x), x / (1 + size))


# powers ------------------------------------------------------------------------------------------
_TWO_THIRDS = (0.6666666666666666, 3.700743415417188e-17)  # in two parts
# (log((1 + s) / (1 - s)) / s - 2 - 2/3 s^2) / s^4 in s^2, of which less than 0.02944; 2^-66 of the logarithm
_ATANH = (
    0.40000000000002256, 0.2857142857010011, 0.22222222519818505, 0.18181784376937263, 0.1538675685027489,
    0.13256829566861866, 0.13196213664945725,
)  # fmt: skip


def _log_in_parts(x: Any, kind: Format) -> tuple[Any, Any]:
    """log(x) of a positive float64 as the sum of two, with about 65 bits: 2 artanh(f / (2 + f))."""
    subnormal = x < kind.smallest
    normal = select(subnormal, x * 2.0 ** (kind.fraction + 1), x)
    exponent, k = _exponent_of(normal, kind)
    f = from_bits(bits(normal) - exponent) - 1
    k = select(subnormal, k - (kind.fraction + 1), k)
    divisor = 2 + f
    inverse = 1 / divisor
    s = f * inverse
    s_low = fma(-s, (2 - divisor) + f, fma(-s, divisor, f)) * inverse
    square = s * s
    square_low = fma(s, s, -square) + 2 * s * s_low
    series = square * polynomial(square, _ATANH)
    factor = _TWO_THIRDS[0] + series
    factor_low = (_TWO_THIRDS[0] - factor) + series + _TWO_THIRDS[1]
    bend = square * factor
    bend_low = fma(square, factor, -bend) + fma(square, factor_low, square_low * factor)
    third = s * bend
    third_low = fma(s, bend, -third) + fma(s, bend_low, s_low * bend)
    first = fma(k, kind.ln2_high, 2 * s)
    rounded_off = fma(k, kind.ln2_high, -first) + 2 * s
    high = first + third
    low = ((first - high) + third) + (rounded_off + fma(k, kind.ln2_low, fma(s_low, 2.0, third_low)))
    total = high + low
    return total, (high - total) + low


def _power_of_size(x: Any, y: Any, kind: Format) -> Any:
    """x^y = e^(y log x) for x >= 0, the exponent in two parts."""
    high, low = _log_in_parts(x, kind)
    high = select(x == 0, -math.inf, select(x == math.inf, math.inf, high))
    product = y * high
    product_low = fma(y, high, -product) + y * low
    exponent, n = _integer_part(product, _LOG2_E, kind)
    r = fma(n, -kind.ln2_high, product) + fma(n, -kind.ln2_low, product_low)
    mantissa = 1 + fma(polynomial(r, kind.exp), r * r, r)
    return _limits_of_exp(product, _scaled(mantissa, product, exponent, kind), kind)


def power(x: Any, y: Any) -> Any:
    """x^y, with the special cases of C's pow and NumPy's power."""
    kind, size = FORMATS[width(x)], absolute(x)
    if width(x) == 32:  # the common float64 functions are good enough
        result = as_float32(exp(as_float64(y) * log(as_float64(size))))
    else:
        result = _power_of_size(size, y, kind)
    result = select(size == 1, 1.0, result)  # where an infinite exponent has made NaN
    odd = _is_integer(y, kind) & ~_is_integer(0.5 * y, kind)
    result = select((bits(x) < 0) & odd, -result, result)
    undefined = (x < 0) & (x > -math.inf) & ~_is_integer(y, kind)
    result = select(undefined | (x != x) | (y != y), math.nan, result)
    return select((y == 0) | (x == 1), 1.0, result)


def _is_integer(x: Any, kind: Format) -> Any:
    size, large = absolute(x), 2.0**kind.fraction
    return (size >= large) | ((size + large) - large == size)
