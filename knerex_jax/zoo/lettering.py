"""Text drawn on pictures, with its exact place, in the font that Pillow carries. A picture is uint8 [h, w, 3], RGB."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from knerex_jax.zoo.images import resize

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are the first ones outside."""

CALIBRATION_WORDS, EVALUATION_WORDS = (
    tuple(words.split())
    for words in (
        "apple bridge camera dinner engine forest garden hammer island jacket kitchen lemon market number office "
        "paper quarter river station table uncle valley window yellow zebra autumn butter circle doctor energy finger "
        "ground height iron journey knife letter motion native orange pocket railway silver tunnel under village "
        "Amsterdam Berlin Chicago Dublin Monday Wednesday Friday January March May July Street Total Open Exit Price",
        "answer basket corner desert evening flower glass harbour insect jungle kettle ladder mirror needle ocean "
        "planet quiet ribbon summer thunder useful velvet winter yard zipper arrow bottle copper danger eleven "
        "frozen golden hollow impact jigsaw keeper lantern meadow nothing output pillow rocket shadow timber "
        "Paris London Madrid Vienna Tuesday Thursday Sunday February April June August Avenue Sum Closed Entry Cost",
    )
)
"""Words of calibration and of evaluation; no word is in both."""

CLEAR_CHARACTERS = "ABCDEFGHJKLMNPQRTUVWXY2346789"
"""Capitals and digits that are not mistaken for one another."""


def random_phrase(words: tuple[str, ...], longest: int, generator: np.random.Generator) -> str:
    """One to four words, at most `longest` characters, which must be room for one."""
    phrase = str(generator.choice([word for word in words if len(word) <= longest]))
    for _ in range(int(generator.integers(4))):
        longer = f"{phrase} {generator.choice(words)}"
        phrase = longer if len(longer) <= longest else phrase
    return phrase


def random_text(words: tuple[str, ...], longest: int, generator: np.random.Generator) -> str:
    """A phrase, or in one of three cases a code or a price; `longest` is 9 or more."""
    kind = generator.integers(6)
    if kind == 0:
        return "".join(generator.choice(list(CLEAR_CHARACTERS), int(generator.integers(4, 10))))
    if kind == 1:
        return f"{generator.integers(1, 10000)}.{generator.integers(100):02d}"
    return random_phrase(words, longest, generator)


def _ink_box(text: str, size: int, outline: int) -> Box:
    """Box of a text's ink, seen from where it is drawn; Pillow's own boxes count part of the space between letters."""
    font = ImageFont.load_default(size)
    left, top, right, bottom = (int(edge) for edge in font.getbbox(text, stroke_width=outline))
    canvas = Image.new("L", (right - left + size, bottom - top + size))
    corner = (size // 2 - left, size // 2 - top)
    ImageDraw.Draw(canvas).text(corner, text, font=font, fill=255, stroke_width=outline)
    box = canvas.getbbox()
    assert box is not None, "a text has a visible character"
    return box[0] - corner[0], box[1] - corner[1], box[2] - corner[0], box[3] - corner[1]


def text_size(text: str, size: int, outline: int = 0) -> tuple[int, int]:
    """Height and width in pixels of a text's ink; the font's size is in pixels too."""
    left, top, right, bottom = _ink_box(text, size, outline)
    return bottom - top, right - left


def draw_text(
    picture: np.ndarray, text: str, size: int, top: int, left: int, colour: np.ndarray, outline: int = 0
) -> tuple[np.ndarray, Box]:
    """Draws a text.

    Args:
      picture: to draw on; it stays as it is.
      text: ASCII.
      size: of the font in pixels.
      top: first row of the ink.
      left: first column of the ink.
      colour: RGB, 0 to 255, [3].
      outline: width in pixels of a black or white rim around the ink, whichever stands out from the colour.

    Returns:
      The new picture, and the box of the ink with its outline.
    """
    image = Image.fromarray(picture)
    first_column, first_row, last_column, last_row = _ink_box(text, size, outline)
    rim = (0, 0, 0) if colour.mean() > 127 else (255, 255, 255)
    ImageDraw.Draw(image).text(
        (left - first_column, top - first_row),
        text,
        font=ImageFont.load_default(size),
        fill=tuple(int(c) for c in colour),
        stroke_width=outline,
        stroke_fill=rim if outline else None,
    )
    return np.asarray(image), (left, top, left + last_column - first_column, top + last_row - first_row)


def random_colour(generator: np.random.Generator) -> np.ndarray:
    """RGB, 0 to 255, [3]."""
    return generator.integers(0, 256, 3)


def contrasting_colour(ground: np.ndarray, generator: np.random.Generator, least: float = 90.0) -> np.ndarray:
    """A random colour whose brightness differs from a picture's mean by at least `least`, 127 or less."""
    while True:
        colour = random_colour(generator)
        if abs(float(colour.mean()) - float(ground.mean())) >= least:
            return colour


def random_ground(height: int, width: int, generator: np.random.Generator) -> np.ndarray:
    """A plain ground: one colour that goes over into a similar one from side to side."""
    start = random_colour(generator).astype(np.float64)
    end = start + generator.uniform(-40, 40, 3)
    share = np.linspace(0, 1, width)[None, :, None]
    return np.clip(np.round(start + (end - start) * share + np.zeros((height, 1, 1))), 0, 255).astype(np.uint8)


def wear(picture: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A random blur and noise, as a camera adds them."""
    blurred = Image.fromarray(picture).filter(ImageFilter.GaussianBlur(generator.uniform(0, 0.8)))
    noise = generator.normal(0, generator.uniform(0, 14), picture.shape)
    return np.clip(np.round(np.asarray(blurred) + noise), 0, 255).astype(np.uint8)


def random_line(text: str, generator: np.random.Generator) -> np.ndarray:
    """A worn picture of one line of text, 48 high and as wide as that makes it, in random size, colours and margins."""
    size = int(generator.integers(24, 49))
    height, width = text_size(text, size)
    above, below, before, after = (int(size * share) for share in generator.uniform(0.08, 0.25, 4))
    ground = random_ground(height + above + below, width + before + after, generator)
    drawn, _ = draw_text(ground, text, size, above, before, contrasting_colour(ground, generator, 50))
    return resize(wear(drawn, generator), 48, max(1, round(48 * drawn.shape[1] / drawn.shape[0])))


def line_input(picture: np.ndarray, width: int) -> np.ndarray:
    """What the line models read: uint8 [48, w, 3] -> float32 [3, 48, width], BGR, -1 to 1, zeros to the right.

    A line that is too wide is squeezed.
    """
    fitting = picture if picture.shape[1] <= width else resize(picture, 48, width)
    scaled = fitting[:, :, ::-1].astype(np.float32) / np.float32(127.5) - np.float32(1)
    padded = np.zeros((3, 48, width), np.float32)
    padded[:, :, : fitting.shape[1]] = scaled.transpose(2, 0, 1)
    return padded
