"""The judge: exact arithmetic with fractions, in which every rounding is written out by hand. It calls nothing of the package.

A real number is a Fraction, or a float that is inf or -inf. No tolerance anywhere.
"""

from bisect import bisect_right
from fractions import Fraction
from math import floor, inf, isinf

RULES = ("half-even", "half-away", "half-up", "down", "up", "toward-zero")
# digits of the significand, exponent of the smallest normal number, exponent of the largest number
FLOATS = {"float16": (11, -14, 15), "float32": (24, -126, 127), "float64": (53, -1022, 1023)}


def exact(value):
    "A NumPy or Python number as a Fraction, infinities as they are."
    if isinstance(value, (int, Fraction)):
        return Fraction(value)
    number = value.item() if hasattr(value, "item") else value
    return number if isinstance(number, float) and isinf(number) else Fraction(number)


def goes_up(rest, negative, low_is_odd, rule):
    "Whether a number `rest` of a step (0 < rest < 1) above its lower neighbour goes to the upper one."
    if rule in ("down", "up", "toward-zero"):
        return {"down": False, "up": True, "toward-zero": negative}[rule]
    if rest != Fraction(1, 2):
        return rest > Fraction(1, 2)
    return {"half-even": low_is_odd, "half-away": not negative, "half-up": True}[rule]


def round_to_integer(value, rule="half-even"):
    low = floor(value)
    rest = value - low
    return low + 1 if rest and goes_up(rest, value < 0, low % 2 == 1, rule) else low


def exponent_of(value):
    "The e with 2**e <= |value| < 2**(e+1)."
    value = abs(value)
    e = value.numerator.bit_length() - value.denominator.bit_length()
    return e if value >= Fraction(2) ** e else e - 1


def round_to_float(value, kind):
    "The number of the binary format `kind` that is nearest to `value`, ties to even; inf where it overflows."
    if isinstance(value, float) or value == 0:
        return value
    digits, lowest, highest = FLOATS[kind]
    step = Fraction(2) ** (max(exponent_of(value), lowest) - digits + 1)
    rounded = round_to_integer(value / step) * step
    if abs(rounded) >= Fraction(2) ** (highest + 1):
        return inf if value > 0 else -inf
    return rounded


def ratio(x, scale, work):
    "x / scale: a true division of two numbers of the type `work`, rounded to that type."
    x, scale = round_to_float(exact(x), work), round_to_float(exact(scale), work)
    return x if isinstance(x, float) else round_to_float(x / scale, work)


def code(ratio, zero_point, qmin, qmax, rule="half-even"):
    "saturate(round(ratio) + zero_point)."
    if isinstance(ratio, float):
        return qmax if ratio > 0 else qmin
    return min(max(round_to_integer(ratio, rule) + int(zero_point), qmin), qmax)


def dequantized(q, scale, zero_point, kind):
    "(q - zero_point) * scale, rounded once to `kind`."
    return round_to_float((int(q) - int(zero_point)) * exact(scale), kind)


def step_beyond(values):
    "The step that a format would go on with after its largest number."
    largest, step = values[-1], values[-1] - values[-2]
    return 2 * step if largest.numerator & (largest.numerator - 1) == 0 and largest.denominator & (largest.denominator - 1) == 0 else step


def stored(x, values):
    """The number that `x` becomes in a format whose finite numbers are the Fractions `values` in rising order,
    as {(rule, whether it saturates): number}.

    The first number that is missing at either end takes part in the rounding; what is rounded to it overflows."""
    x, largest, step, sign = exact(x), values[-1], step_beyond(values), 1 if x > 0 else -1
    ways = [(rule, saturate) for rule in RULES for saturate in (False, True)]
    if isinstance(x, float):
        return {way: sign * largest if way[1] else x for way in ways}
    if abs(x) >= largest + step:
        cuts = ("toward-zero", "down" if x > 0 else "up")
        return {way: sign * largest if way[1] or way[0] in cuts else sign * inf for way in ways}
    levels = [-largest - step, *values, largest + step]
    low = bisect_right(levels, x) - 1
    rest = (x - levels[low]) / (levels[low + 1] - levels[low])
    odd = (low - len(levels) // 2) % 2 != 0  # codes count from zero in both directions
    found = {}
    for rule, saturate in ways:
        number = levels[low + 1] if rest and goes_up(rest, x < 0, odd, rule) else levels[low]
        found[rule, saturate] = number if abs(number) <= largest else sign * (largest if saturate else inf)
    return found


def nearest_level(x, levels, rule):
    "One of the Fractions `levels`; a tie goes to the even place, away from zero or up."
    x = exact(x)
    if x <= levels[0] or x >= levels[-1]:
        return levels[0] if x <= levels[0] else levels[-1]
    place = bisect_right(levels, x) - 1
    low, high = levels[place], levels[place + 1]
    if x == low:
        return low
    if rule == "toward-zero":
        return high if abs(high) < abs(low) else low
    if rule == "half-away" and x - low == high - x:
        return high if abs(high) >= abs(low) else low
    return high if goes_up((x - low) / (high - low), x < 0, place % 2 == 1, rule) else low
