"""Made-up photos of apples, bottles and mugs on a table, rendered with light, shadow and blur.

As a script it writes a data set of them, and in odd/ photos of doughnuts and traffic cones, which belong to no class.

    python tests/rendered.py data/things
"""

import argparse
import colorsys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

SIZE = 240  # height and width, pixels
CENTRE, RADIUS = np.float32([0, 0.55, 0]), 0.95  # each thing is inside this ball; it stands on the table, at y = 0
Parts = Callable[..., list]  # of coordinates x, y, z (N,): for each part the distances (N,) to it, negative inside


def colour(random: np.random.Generator, hue=(0.0, 1.0), saturation=(0.1, 0.8), value=(0.3, 0.95)) -> np.ndarray:
    """A random colour: RGB, 0 to 1."""
    return np.float32(colorsys.hsv_to_rgb(*(random.uniform(*limits) for limits in (hue, saturation, value))))


def tube(x, y, z, radius, low, high, edge=0.02):
    """Distances to an upright cylinder with rounded edges."""
    out, up = np.hypot(x, z) - radius + edge, np.abs(y - (low + high) / 2) - (high - low) / 2 + edge
    return np.hypot(np.maximum(out, 0), np.maximum(up, 0)) + np.minimum(np.maximum(out, up), 0) - edge


def ring(x, y, z, radius, thickness):
    """Distances to a ring around the z axis."""
    return np.hypot(np.hypot(x, y) - radius, z) - thickness


def joined(a, b, width):
    """Distances to two parts with a soft seam."""
    share = np.clip(0.5 + (b - a) / (2 * width), 0, 1)
    return b + (a - b) * share - width * share * (1 - share)


def mug(random: np.random.Generator) -> tuple[Parts, list]:
    radius, height, grip = random.uniform(0.33, 0.46), random.uniform(0.75, 1.05), random.uniform(0.2, 0.28)
    low, high = (height * random.uniform(*limits) for limits in ((0.1, 0.5), (0.6, 0.9)))

    def parts(x, y, z):
        inside = tube(x, y, z, radius - 0.05, 0.06, 2)
        handle = np.maximum(ring(x - radius, y - height / 2, z, grip, 0.055), -tube(x, y, z, radius - 0.02, -1, 2))
        body = joined(tube(x, y, z, radius, 0, height), handle, 0.03)
        return [np.maximum(each, -inside) for each in (body, tube(x, y, z, radius + 0.005, low, high, 0.004))]

    return parts, [colour(random), colour(random)]


def bottle(random: np.random.Generator) -> tuple[Parts, list]:
    radius, shoulder, height = random.uniform(0.2, 0.27), random.uniform(0.7, 0.9), random.uniform(1.25, 1.4)
    neck, seam = random.uniform(0.07, 0.1), random.uniform(0.05, 0.2)

    def parts(x, y, z):
        body = joined(tube(x, y, z, radius, 0, shoulder, 0.05), tube(x, y, z, neck, 0.3, height), seam)
        label, cap = tube(x, y, z, radius + 0.006, 0.2, 0.55, 0.004), tube(x, y, z, neck + 0.02, height - 0.15, height)
        return [body, label, cap]

    glass, paper = colour(random, (0.05, 0.6), (0.5, 0.9), (0.1, 0.5)), colour(random, (0, 1), (0, 0.5), (0.6, 0.95))
    return parts, [glass, paper, colour(random)]


def apple(random: np.random.Generator) -> tuple[Parts, list]:
    radius, dent, slope = random.uniform(0.34, 0.4), random.uniform(0.1, 0.15), random.uniform(-0.2, 0.2)

    def parts(x, y, z):
        flesh = np.hypot(np.hypot(x, z) / (0.85 + 0.3 * y) - dent, y - radius) - radius
        stem = tube(x - slope * (y - 0.6), y, z, 0.025, radius, 2 * radius + 0.2)
        leaf = (np.hypot(np.hypot(x - 0.17, 6 * (y - 2 * radius - 0.1)), 2 * z) - 0.17) / 6
        return [flesh * 0.8, stem, leaf]

    return parts, [colour(random, (-0.03, 0.28), (0.75, 0.95), (0.6, 0.9)), [0.3, 0.18, 0.08], [0.2, 0.45, 0.1]]


def doughnut(random: np.random.Generator) -> tuple[Parts, list]:
    def parts(x, y, z):
        return [ring(x, z, y - 0.2, 0.4, 0.2), np.maximum(ring(x, z, y - 0.21, 0.4, 0.205), 0.25 - y)]

    return parts, [[0.75, 0.5, 0.25], colour(random)]


def cone(random: np.random.Generator) -> tuple[Parts, list]:
    def parts(x, y, z):
        side = np.maximum((np.hypot(x, z) - 0.36 + 0.28 * y) * 0.95, np.abs(y - 0.6) - 0.6)
        return [np.minimum(side, tube(x, y, z, 0.48, 0, 0.06)), np.maximum(side - 0.005, np.abs(y - 0.6) - 0.15)]

    return parts, [colour(random, (0.02, 0.08), (0.9, 1), (0.8, 1)), [0.9, 0.9, 0.9]]


CLASSES, ODD = {"apple": apple, "bottle": bottle, "mug": mug}, {"cone": cone, "doughnut": doughnut}


def photo(thing: Callable, random: np.random.Generator, size: int = SIZE) -> np.ndarray:
    """A photo of a thing from CLASSES or ODD, seen, lit and coloured at random: RGB, uint8 (size, size, 3)."""
    parts, colours = thing(random)
    turn, distance = random.uniform(-0.8, 3.9), random.uniform(2, 3.1)  # a handle is never behind its mug
    forward = -direction(turn, random.uniform(0.1, 0.7))
    right = np.float32([-forward[2], 0, forward[0]]) / np.hypot(forward[0], forward[2])
    eye = CENTRE - np.float32(distance) * forward + right * np.float32(random.uniform(-0.25, 0.25))
    fine = round(1.25 * size)  # rendered larger, so edges become smooth
    rows, columns = np.mgrid[1 : -1 : fine * 1j, -1 : 1 : fine * 1j].astype(np.float32).reshape(2, -1, 1)
    rays = 2.2 * forward + columns * right + rows * np.cross(right, forward)  # (fine * fine, 3)
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)

    length, _ = march(parts, np.broadcast_to(eye, rays.shape), rays)
    to_table = -eye[1] / np.minimum(rays[:, 1], -1e-3)  # far away above the horizon
    depth, is_thing = np.minimum(length, to_table)[:, None], length < to_table
    points = eye + depth * rays
    paint, normals = table(points, random), np.zeros_like(points) + np.float32([0, 1, 0])
    paint[is_thing] = np.float32(colours)[np.argmin(parts(*points[is_thing].T), axis=0)]
    normals[is_thing] = slopes(parts, points[is_thing])

    light = direction(turn + random.uniform(-1.8, 1.8), random.uniform(0.5, 1.1))
    _, lit = march(parts, points + 0.01 * normals, np.broadcast_to(light, points.shape))
    lit = (lit * np.maximum(normals @ light, 0))[:, None]
    open_sky = np.clip(gap(parts, points + 0.12 * normals) / 0.17 + 0.3, 0.3, 1)[:, None]  # less of it in corners
    half_way = (light - forward) / np.linalg.norm(light - forward)
    shine = np.maximum(normals @ half_way, 0)[:, None] ** random.uniform(30, 90) * (lit > 0.05) * is_thing[:, None]
    warmth = np.float32([1.05, 1, 0.92]) ** random.uniform(-1, 2)
    pixels = paint * (0.85 * lit * warmth + open_sky * (0.28 + 0.12 * normals[:, 1:2])) + 0.6 * shine
    wall = colour(random, saturation=(0, 0.4), value=(0.3, 0.8)) * (0.9 + 0.25 * rows)
    pixels, is_thing, depth = (
        each.reshape(fine, fine, -1).astype(np.float32)
        for each in (np.where(depth < 12, pixels, wall), is_thing, depth)
    )
    # Blurred by distance, without the thing's own colours.
    blur, weight = (cv2.GaussianBlur(each, (0, 0), fine / 50) for each in (pixels * (1 - is_thing), 1 - is_thing))
    blur /= np.maximum(weight, 1e-3)[..., None]
    pixels += (blur - pixels) * np.clip((depth - distance - 0.6) / 1.5, 0, 1) * (1 - is_thing)
    pixels = cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA) * random.uniform(0.85, 1.2)
    pixels = 255 * pixels.clip(0, 1) ** (1 / 1.6) + random.normal(0, random.uniform(1, 5), pixels.shape)
    return pixels.round().clip(0, 255).astype(np.uint8)


def direction(turn: float, height: float) -> np.ndarray:
    return np.float32([np.sin(turn) * np.cos(height), np.sin(height), np.cos(turn) * np.cos(height)])


def gap(parts: Parts, points: np.ndarray) -> np.ndarray:
    return np.minimum.reduce(parts(*np.ascontiguousarray(points.T)))  # (N, 3) -> (N,)


def slopes(parts: Parts, points: np.ndarray) -> np.ndarray:
    steps = 2e-3 * np.eye(3, dtype=np.float32)
    normals = np.stack([gap(parts, points + step) - gap(parts, points - step) for step in steps], axis=1)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)


def march(parts: Parts, starts: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sphere tracing (Hart 1996): the length (N,) of each ray to the thing, inf if it misses, and the light (N,), 0 to
    1, that a start gets through a soft shadow if a lamp is at the ray's end.
    """
    middle = ((CENTRE - starts) * rays).sum(1)
    past = np.linalg.norm(starts + middle[:, None] * rays - CENTRE, axis=1)
    near = np.flatnonzero((past < RADIUS) & (middle > -RADIUS))
    half, starts, rays = np.sqrt(RADIUS**2 - past[near] ** 2), starts[near], rays[near]
    along, last = np.maximum(middle[near] - half, 0.01), middle[near] + half
    length, light, share = np.full(len(past), np.inf, np.float32), np.ones(len(past), np.float32), np.ones(len(near))
    for _ in range(40):
        step = gap(parts, starts + along[:, None] * rays)
        share = np.minimum(share, np.where(along < last, 10 * step / along, 1))
        along += np.maximum(step, 0)
    length[near] = np.where((step < 0.01) & (along < last), along, np.inf)
    light[near] = share.clip(0, 1)
    return length, light


def table(points: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Colours (N, 3) of points on a table of planks, with checks, or plain."""
    x, _, z = np.ascontiguousarray(points.T)
    planks = np.sin(78 * np.floor(3 * z)) + 0.3 * np.sin(70 * z + 3 * np.sin(2 * x))
    pattern = [planks, np.sign(np.sin(8 * x) * np.sin(8 * z)), 0 * x][random.integers(3)][:, None]
    hue = (0.05, 0.12) if random.random() < 0.5 else (0, 1)
    return colour(random, hue, (0, 0.5), (0.4, 0.95)) * (1 + pattern * random.uniform(0.03, 0.15))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="a new one")
    folder = Path(parser.parse_args().folder)
    if folder.exists():
        parser.error(f"{folder} is there already; name a new folder")
    random = np.random.default_rng(0)
    photos = {f"train/{name}/": (thing, 24) for name, thing in CLASSES.items()}
    photos |= {f"test/{name}/": (thing, 12) for name, thing in CLASSES.items()}
    photos |= {f"odd/{name}": (thing, 6) for name, thing in ODD.items()}
    for place, (thing, count) in photos.items():
        for number in range(count):
            path = Path(f"{folder}/{place}{number}.jpg")
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), cv2.cvtColor(photo(thing, random), cv2.COLOR_RGB2BGR))
    print(f"wrote 24 photos to train and 12 to test of each of {len(CLASSES)} classes, and {6 * len(ODD)} of others")


if __name__ == "__main__":
    main()
