"""Every scheme by name: what it is, where it comes from, its options and what it suits."""

from dataclasses import dataclass

from equipoise import _checks
from equipoise.schemes.call_text import Value, read_call, write_call
from equipoise.schemes.diagonal_noise import NOISES, PUBLISHED_ALPHA
from equipoise.schemes.framed import DEFAULT_BUDGET
from equipoise.schemes.options import Option, options_given
from equipoise.schemes.variance import DISTRIBUTIONS, MODES


@dataclass(frozen=True)
class SchemeEntry:
    """One scheme of the catalogue.

    Attributes:
        name: as it is written.
        summary: what it draws, in one line.
        source: who published it, '' where it was put together here.
        suits: the activations it is made for, in a few words.
        options: what may be set.
    """

    name: str
    summary: str
    source: str
    suits: str
    options: tuple[Option, ...] = ()


@dataclass(frozen=True)
class Scheme:
    """A scheme with the options that were given.

    Attributes:
        name: of the catalogue.
        given: options that were set, by name.
    """

    name: str
    given: tuple[tuple[str, Value], ...] = ()

    @property
    def entry(self) -> SchemeEntry:
        """Its entry in the catalogue."""
        return CATALOGUE[self.name]

    def has(self, option: str) -> bool:
        """Whether an option was set."""
        return any(name == option for name, _ in self.given)

    def number(self, option: str) -> float:
        """A numeric option, its default where it was not set.

        >>> parse_scheme("sampled").number("draws")
        16.0
        """
        value = self._value(option)
        assert not isinstance(value, str)
        return float(value)

    def word(self, option: str) -> str:
        """A worded option, its default where it was not set.

        >>> parse_scheme("he").word("distribution")
        'normal'
        """
        return str(self._value(option))

    def _value(self, option: str) -> Value:
        defaults = {o.name: o.default for o in self.entry.options}
        return (defaults | dict(self.given))[option]

    def __str__(self) -> str:
        return write_call(self.name, dict(self.given))


def _distribution(default: str) -> Option:
    return Option("distribution", default, "law of the entries", choices=DISTRIBUTIONS)


def _mode(default: str) -> Option:
    return Option("mode", default, "pass whose mean square is kept", choices=MODES)


_BOUND = Option("bound", 2.0, "cut of the truncated law, in its standard deviations", 0.1, 10.0)
_NORMAL_OR_HAAR = Option(
    "distribution", "normal", "law of the weights", choices=("normal", "orthogonal")
)
_TWO_LINES = "ReLU, leaky ReLU and lines exactly; others to first order in 1 / width"
_BUDGET = Option(
    "budget", DEFAULT_BUDGET, "nats of gradient growth over the stack", 0.0, 100.0, is_open=True
)
_NOISE = (
    Option("noise", "normal", "law of the noise", choices=NOISES),
    Option("bound", 2.0, "cut of truncated_normal, in standard deviations", 0.01, 10.0),
    Option("degrees", 5.0, "degrees of freedom of student_t", 2.0, 1e6, is_open=True),
)

_ENTRIES = (
    SchemeEntry(
        "auto",
        "chosen for each stack by its activations, depth and widths, with the reason",
        "",
        "every activation",
    ),
    SchemeEntry(
        "xavier",
        "variance 2 gain^2 / (fan_in + fan_out)",
        "Glorot and Bengio 2010",
        "activations of slope 1 at 0, shallow",
        (
            _distribution("uniform"),
            Option("mode", "average", "fan that counts", choices=MODES),
            Option("gain", 1.0, "factor of the entries", 0.0, is_open=True),
            _BOUND,
        ),
    ),
    SchemeEntry(
        "he",
        "variance 1 / (fan_in E f^2), exact for every activation",
        "He et al. 2015, arXiv 1502.01852",
        "every activation, wide or shallow",
        (_distribution("normal"), _mode("fan_in"), _BOUND),
    ),
    SchemeEntry(
        "lecun",
        "variance gain^2 / fan_in",
        "LeCun et al. 1998; SELU: arXiv 1706.02515",
        "SELU; activations of slope 1 at 0, shallow",
        (
            _distribution("normal"),
            Option("gain", 1.0, "factor of the entries", 0.0, is_open=True),
            _BOUND,
        ),
    ),
    SchemeEntry(
        "orthogonal",
        "semi-orthogonal weights, each drawn apart; a convolution at its centre taps",
        "Saxe et al. 2013, arXiv 1312.6120; convolutions: arXiv 1806.05393",
        "odd activations and lines, widths that do not change",
        (
            Option("kernel", "delta", "taps that are not 0", choices=("delta", "flattened")),
            Option("gain", 0.0, "singular values, 0 for what the activation asks for", 0.0),
        ),
    ),
    SchemeEntry(
        "diagonal_noise",
        "identity (mod fan_in) over f'(0), plus noise of std alpha / sqrt(fan_in)",
        "Lee, Choi and Kim 2024, arXiv 2410.02242",
        "tanh and its like",
        (
            Option("alpha", PUBLISHED_ALPHA, "scale of the noise", 0.0, 10.0, is_open=True),
            *_NOISE,
        ),
    ),
    SchemeEntry(
        "odd_sigmoid",
        "diagonal + noise whose scale follows from a target layer",
        "arXiv 2509.23085; the closed form is this library's own",
        "odd sigmoids: tanh, erf, arctan, x / sqrt(1 + x^2), softsign",
        (
            Option("layer", 0, "layer to be reached, 0 for the last", 0, 1e6, is_whole=True),
            Option("memory", 0.5, "E sgn x_0 sgn x_L that is left there", 1e-12, 0.88),
            *_NOISE,
        ),
    ),
    SchemeEntry(
        "lyapunov",
        "the scale at which the typical draw keeps its norm at finite width",
        "arXiv 2602.10949",
        _TWO_LINES,
        (_NORMAL_OR_HAAR,),
    ),
    SchemeEntry(
        "sampled",
        "Lyapunov scale, and of several draws the one that keeps the signal's norm best",
        "sampling: arXiv 2602.10949; the choice along the signal's path is this library's own",
        _TWO_LINES + "; known activations only",
        (
            Option("draws", 16, "candidates for each weight", 1, 4096, is_whole=True),
            _NORMAL_OR_HAAR,
        ),
    ),
    SchemeEntry(
        "fractional_moment",
        "the scale that keeps E |x|^s; s = 2 is He's rule, s to 0 the typical draw",
        "arXiv 2005.11878",
        _TWO_LINES,
        (Option("order", 1.0, "s", 0.0, 4.0, is_open=True), _NORMAL_OR_HAAR),
    ),
    SchemeEntry(
        "identity",
        "gain on the diagonal, at the centre tap of a convolution",
        "Le et al. 2015, arXiv 1504.00941",
        "lines and ReLU after positive inputs; nothing random tells units apart",
        (Option("gain", 1.0, "factor of the diagonal", 0.0, is_open=True),),
    ),
    SchemeEntry(
        "siren",
        "uniform: bound 1 / fan_in in the first layer, sqrt(c / fan_in) / w before other sines",
        "Sitzmann et al. 2020, arXiv 2006.09661",
        "sin(w x) on coordinates; odd activations",
        (
            Option("c", 6.0, "c of the hidden layers", 0.0, 1e3, is_open=True),
            Option("first", 1.0, "numerator of the first layer's bound", 0.0, 1e6, is_open=True),
        ),
    ),
    SchemeEntry(
        "centred",
        "orthogonal on frames that telescope, units centred at f(0), gain from a depth budget",
        "",
        "activations that are nearly affine at 0: tanh, sigmoid, ELU, SELU",
        (_BUDGET,),
    ),
    SchemeEntry(
        "mirrored",
        "units in pairs (v, -v) on frames: exactly linear at birth for gates",
        "looks-linear, for ReLU: arXiv 1702.08591",
        "gates: ReLU, GELU, SiLU, softplus, leaky ReLU",
        (
            _BUDGET,
            Option("spread", 0.0, "spread of the pairs' kinks over the RMS of v", 0.0, 10.0),
        ),
    ),
    SchemeEntry(
        "shifted",
        "orthogonal on frames, units worked where their function is a line or steepest",
        "",
        "ReLU, ELU, GELU, SiLU and their like in narrow dense networks",
        (
            Option("shift", 0.0, "distance from 0 in RMS of v, 0 for one that suits", 0.0, 100.0),
            Option("bends", 0.0, "nats of gradient growth for kinks among the inputs", 0.0, 10.0),
            _BUDGET,
        ),
    ),
)
CATALOGUE: dict[str, SchemeEntry] = {entry.name: entry for entry in _ENTRIES}
SCHEMES: tuple[str, ...] = tuple(CATALOGUE)


def parse_scheme(text: str) -> Scheme:
    """A scheme from its name, with options in brackets where they differ from the defaults.

    Args:
        text: such as ``he`` or ``he(distribution='uniform', mode='fan_out')``.

    Returns:
        The scheme.

    Raises:
        ArgumentError: naming the scheme or option that is unknown, or the value that it cannot be.

    >>> parse_scheme("fractional_moment(order=0.5)").number("order")
    0.5
    >>> str(parse_scheme("he( mode = 'fan_out' )"))
    "he(mode='fan_out')"
    """
    call = read_call(text, "scheme", "he(distribution='uniform')")
    entry = CATALOGUE[_checks.one_of("scheme", call.name, SCHEMES)]
    given = options_given(f"scheme {entry.name!r}", entry.options, call)
    return Scheme(entry.name, tuple(given.items()))
