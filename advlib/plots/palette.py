"""The course's colours: one meaning each, in figures and explorers alike.

Images are clean, noisy or adversarial; networks have standard (`STANDARD`) or adversarial training
(`ROBUST`). Blue, grey and vermillion are distinct to readers with any common colour-vision
deficiency (Okabe and Ito, 2008). The `_DARK` variants are for dark backgrounds. Every colour has a
contrast of at least 3:1 to its background, which is what graphics need; text is never coloured.
"""

CLEAN = "#0072B2"
NOISE = "#8A8A8A"
ADVERSARIAL = "#D55E00"
NEUTRAL = "#5B6770"
STANDARD = "#A3478A"
ROBUST = "#00805C"

CLEAN_DARK = "#56B4E9"
NOISE_DARK = "#B3B3B3"
ADVERSARIAL_DARK = "#FF8F4A"
NEUTRAL_DARK = "#9AA7B2"
STANDARD_DARK = "#E08CC9"
ROBUST_DARK = "#4FC3A1"

ROLES = {"clean": CLEAN, "noise": NOISE, "adversarial": ADVERSARIAL}
ROLES_DARK = {"clean": CLEAN_DARK, "noise": NOISE_DARK, "adversarial": ADVERSARIAL_DARK}
