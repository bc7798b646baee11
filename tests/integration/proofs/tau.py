"""Powers of tau of a known tau, written by hand: the file that a ceremony's converters write, by other means than ezkl.

Layout (halo2's ParamsKZG, raw): k as uint32, 2^k powers tau^i·G1, 2^k Lagrange polynomials L_i(tau)·G1, G2, tau·G2. All
little-endian; coordinates in Montgomery form with R = 2^256; a point is x and y, over Fp2 c0 before c1. Curve and
generators: https://eips.ethereum.org/EIPS/eip-197.
"""

from __future__ import annotations

from pathlib import Path

P = 21888242871839275222246405745257275088696311157297823662689037894645226208583
ORDER = 21888242871839275222246405745257275088548364400416034343698204186575808495617
MONTGOMERY = pow(2, 256, P)
TWO_ADICITY = 28
WINDOW = 8

Point = tuple[int, int]
Fp2 = tuple[int, int]
G1: Point = (1, 2)
G2: tuple[Fp2, Fp2] = (
    (
        10857046999023057135944570762232829481370756359578518086990519993285655852781,
        11559732032986387107991004021392285783925812861821192530917403151452391805634,
    ),
    (
        8495653923123431417604973247489272438418190587263600148770280649306958101930,
        4082367875863433681332203403145435568316851327593401208105741076214120093531,
    ),
)


def write_powers(path: Path, tau: int, log_rows: int) -> Path:
    """Writes the file. Takes a second or two for 2^10."""
    count = 1 << log_rows
    powers, value = [], 1
    for _ in range(count):
        powers.append(value)
        value = value * tau % ORDER
    table = _table()
    points = _affine([_times(scalar, table) for scalar in (*powers, *_lagrange(tau, log_rows))])
    raw = [log_rows.to_bytes(4, "little")]
    raw += [_coordinate(x) + _coordinate(y) for x, y in points]
    for x, y in (G2, _times_g2(tau)):
        raw += [_coordinate(part) for part in (*x, *y)]
    path.write_bytes(b"".join(raw))
    return path


def _coordinate(value: int) -> bytes:
    return (value * MONTGOMERY % P).to_bytes(32, "little")


def _lagrange(tau: int, log_rows: int) -> list[int]:
    """L_i(tau) over the roots of unity of order 2^k: w^i (tau^n - 1) / (n (tau - w^i))."""
    count = 1 << log_rows
    root = pow(7, (ORDER - 1) >> log_rows, ORDER)
    assert log_rows <= TWO_ADICITY
    scale = (pow(tau, count, ORDER) - 1) * pow(count, -1, ORDER) % ORDER
    found, power = [], 1
    for _ in range(count):
        found.append(power * scale * pow(tau - power, -1, ORDER) % ORDER)
        power = power * root % ORDER
    return found


# ------------------------------------------------------------------------------------------------ the curve over Fp

_Jacobian = tuple[int, int, int]
_ZERO: _Jacobian = (1, 1, 0)


def _add(left: _Jacobian, right: Point) -> _Jacobian:
    """A Jacobian and an affine point, neither the other's double: madd-2007-bl without its shortcuts."""
    x1, y1, z1 = left
    x2, y2 = right
    if z1 == 0:
        return x2, y2, 1
    square = z1 * z1 % P
    h = (x2 * square - x1) % P
    r = (y2 * square * z1 - y1) % P
    if h == 0:
        assert r == 0
        return _double(left)
    h2 = h * h % P
    h3, v = h2 * h % P, x1 * h2 % P
    x3 = (r * r - h3 - 2 * v) % P
    return x3, (r * (v - x3) - y1 * h3) % P, z1 * h % P


def _double(point: _Jacobian) -> _Jacobian:
    x, y, z = point
    a, b = x * x % P, y * y % P
    c = b * b % P
    d = 4 * x * b % P
    e = 3 * a % P
    x3 = (e * e - 2 * d) % P
    return x3, (e * (d - x3) - 8 * c) % P, 2 * y * z % P


def _affine(points: list[_Jacobian]) -> list[Point]:
    found = []
    for x, y, z in points:
        inverse = pow(z, -1, P)
        square = inverse * inverse % P
        found.append((x * square % P, y * square * inverse % P))
    return found


def _table() -> list[list[Point]]:
    """Multiples of the generator: [window][digit - 1] = digit · 2^(8 window) · G1."""
    base, windows = G1, []
    for _ in range(256 // WINDOW):
        row: list[_Jacobian] = []
        last: _Jacobian = _ZERO
        for _ in range((1 << WINDOW) - 1):
            last = _add(last, base)
            row.append(last)
        windows.append(_affine(row))
        base = _affine([_add(last, base)])[0]
    return windows


def _times(scalar: int, table: list[list[Point]]) -> _Jacobian:
    sum_: _Jacobian = _ZERO
    for window, row in enumerate(table):
        digit = scalar >> WINDOW * window & (1 << WINDOW) - 1
        if digit:
            sum_ = _add(sum_, row[digit - 1])
    return sum_


# ------------------------------------------------------------------------------------------------ the curve over Fp2


def _multiply(a: Fp2, b: Fp2) -> Fp2:
    return (a[0] * b[0] - a[1] * b[1]) % P, (a[0] * b[1] + a[1] * b[0]) % P


def _subtract(a: Fp2, b: Fp2) -> Fp2:
    return (a[0] - b[0]) % P, (a[1] - b[1]) % P


def _invert(a: Fp2) -> Fp2:
    norm = pow(a[0] * a[0] + a[1] * a[1], -1, P)
    return a[0] * norm % P, -a[1] * norm % P


def _add_g2(a: tuple[Fp2, Fp2] | None, b: tuple[Fp2, Fp2]) -> tuple[Fp2, Fp2]:
    """Affine, schoolbook."""
    if a is None:
        return b
    if a == b:
        square = _multiply(a[0], a[0])
        top, bottom = (3 * square[0] % P, 3 * square[1] % P), (2 * a[1][0] % P, 2 * a[1][1] % P)
    else:
        top, bottom = _subtract(b[1], a[1]), _subtract(b[0], a[0])
    slope = _multiply(top, _invert(bottom))
    x = _subtract(_subtract(_multiply(slope, slope), a[0]), b[0])
    return x, _subtract(_multiply(slope, _subtract(a[0], x)), a[1])


def _times_g2(scalar: int) -> tuple[Fp2, Fp2]:
    found: tuple[Fp2, Fp2] | None = None
    for bit in bin(scalar)[2:]:
        found = None if found is None else _add_g2(found, found)
        if bit == "1":
            found = _add_g2(found, G2)
    assert found is not None
    return found
