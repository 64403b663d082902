"""The section `model`: encoders of text, audio and MIDI, their fusion, and the classifier."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from rainbow_ray.config.choices import Activation, FusionKind, TemporalKind, TextPooling, WordWeighting
from rainbow_ray.config.section import (
    Depth,
    FrozenDepth,
    Names,
    NonNegative,
    Positive,
    PositiveInt,
    Probability,
    Section,
)

EMBEDDED_ENCODER = "embedded"  # a small encoder that is installed with the package
DEFAULT_ENCODER = "microsoft/deberta-v3-base"
DEFAULT_AUDIO_ENCODER = "facebook/wav2vec2-base"
HEAD_LEARNING_RATE = "learning rate of this part; null: training.head_learning_rate"
LAYER = "layer whose hidden states are used: last, a number, a fraction of the depth, or mix (a learned average)"
DESCRIPTORS = (
    "whether the classifier, baselines and the stacked ensemble also read descriptors of each window: {}; null: yes{},"
    " but not for segments"
)
FREEZE_LAYERS = "how many of the lowest layers are frozen: a number, a fraction, or all"


class TextEncoderConfig(Section):
    """Pretrained encoder of texts."""

    inert: ClassVar[Names] = {"hidden_size": "the encoder determines its hidden size"}

    model_name: str | None = Field(
        None,
        description="name on the Hugging Face Hub, local folder, or `embedded`;"
        f" null: {DEFAULT_ENCODER}, for the built-in songs embedded",
    )
    max_length: PositiveInt = Field(512, description="maximum number of tokens; longer texts are truncated")
    layer: Depth = Field(0.34, description=LAYER)
    freeze_layers: FrozenDepth = Field("all", description=FREEZE_LAYERS)
    freeze_embeddings: bool | None = Field(
        None, description="whether the token embeddings are frozen; null: if any layer is frozen"
    )
    pooling: TextPooling = Field("mean", description="how hidden states of tokens become one vector")


class AudioEncoderConfig(Section):
    """Pretrained encoder of waveforms, or a small network on log-mel spectrograms."""

    renamed: ClassVar[Names] = {
        "width": "hidden_size",
        "freeze_front": "freeze_feature_extractor",
        "tokens": "num_tokens",
    }

    model_name: str | None = Field(
        None,
        description="model on the Hugging Face Hub, or local folder (wav2vec 2.0 and its relatives, CLAP, AST, Whisper,"
        " Wav2Vec2-BERT), or `embedded` (a small network on log-mel spectrograms);"
        f" null: {DEFAULT_AUDIO_ENCODER}, for the built-in songs embedded",
    )
    layer: Depth = Field(0.5, description=LAYER)
    freeze_feature_extractor: bool = Field(
        True, description="whether the convolutional feature extractor below the layers is frozen"
    )
    freeze_layers: FrozenDepth = Field("all", description=FREEZE_LAYERS)
    num_tokens: PositiveInt = Field(16, description="number of time steps that each window is average-pooled to")
    hidden_size: PositiveInt = Field(64, description="hidden size of the embedded network")
    descriptors: bool | None = Field(
        None,
        description=DESCRIPTORS.format(
            "chroma, onsets and tempo, spectral shape and contrast, loudness (needs librosa)",
            ", if librosa is installed",
        ),
    )
    mask_time: Probability = Field(0.1, description="SpecAugment: fraction of time steps masked in training")
    mask_features: Probability = Field(0.1, description="SpecAugment: fraction of features masked in training")
    gain_db: NonNegative = Field(
        6.0,
        description="maximum random gain in dB, up or down, in training; only if the feature extractor is trained",
    )
    noise_db: Annotated[float, Field(le=0.0)] | None = Field(
        -40.0,
        description="level in dB, relative to the signal, of white noise added in training; only if the feature"
        " extractor is trained; null: none",
    )
    learning_rate: Positive | None = Field(
        None,
        description="learning rate of this part; null: training.learning_rate for pretrained layers, otherwise"
        " training.head_learning_rate",
    )


class MidiEncoderConfig(Section):
    """Transformer on the notes of MIDI files."""

    renamed: ClassVar[Names] = {
        "width": "hidden_size",
        "layers": "num_layers",
        "heads": "num_heads",
        "tokens": "num_tokens",
    }

    hidden_size: PositiveInt = Field(64, description="hidden size of the transformer")
    num_layers: PositiveInt = Field(2, description="number of transformer layers")
    num_heads: PositiveInt = Field(4, description="number of attention heads")
    dropout: Probability = Field(0.1, description="dropout probability of the transformer")
    descriptors: bool | None = Field(
        None,
        description=DESCRIPTORS.format("pitch classes, intervals, rhythm and metre, density, polyphony, register", ""),
    )
    max_notes: PositiveInt = Field(
        256, description="maximum number of notes per window; later notes are dropped, with a warning"
    )
    num_tokens: PositiveInt = Field(16, description="number of time steps that the notes of a window are pooled to")
    learning_rate: Positive | None = Field(None, description=HEAD_LEARNING_RATE)


class FusionConfig(Section):
    """Fusion of several modalities."""

    renamed: ClassVar[Names] = {
        "summaries": "pooled_statistics",
        "width": "hidden_size",
        "layers": "num_layers",
        "heads": "num_heads",
    }

    kind: FusionKind = Field("cross_attention", description="how modalities are combined")
    hidden_size: PositiveInt = Field(64, description="hidden size of the fusion")
    num_layers: PositiveInt = Field(1, description="number of layers of cross-attention")
    num_heads: PositiveInt = Field(4, description="number of attention heads of cross-attention")
    dropout: Probability = Field(0.1, description="dropout probability of cross-attention")
    modality_dropout: Probability = Field(
        0.5, description="probability that a modality of an example is dropped in training; at least one is kept"
    )
    pooled_statistics: bool = Field(
        True, description="whether the classifier also gets the mean and standard deviation of each modality"
    )
    learning_rate: Positive | None = Field(None, description=HEAD_LEARNING_RATE)


class TemporalConfig(Section):
    """Context of segments: how the segments of a song are read together."""

    renamed: ClassVar[Names] = {
        "run_dropout": "context_dropout",
        "width": "hidden_size",
        "layers": "num_layers",
        "heads": "num_heads",
        "stages": "num_stages",
    }

    kind: TemporalKind = Field("transformer", description="model of the sequence of a song's segments")
    hidden_size: PositiveInt = Field(32, description="hidden size of the sequence model")
    num_layers: PositiveInt = Field(
        1, description="number of transformer layers, or of dilated convolutions per stage of the tcn"
    )
    num_stages: PositiveInt = Field(2, description="number of stages of the tcn")
    num_heads: PositiveInt = Field(4, description="number of attention heads of the transformer")
    dropout: Probability = Field(0.1, description="dropout probability of the sequence model")
    input_dropout: Probability = Field(0.8, description="dropout probability of the features of each segment")
    context_dropout: Probability = Field(
        0.5, description="probability that a sequence is trained without context, each segment on its own"
    )
    weight_decay: NonNegative = Field(1.0, description="weight decay of the sequence model")
    learning_rate: Positive | None = Field(None, description=HEAD_LEARNING_RATE)


class BagOfWordsConfig(Section):
    """Binary word features next to the text encoder."""

    renamed: ClassVar[Names] = {"width": "hidden_size"}

    enabled: bool = Field(True, description="whether the classifier also gets the words that occur in the text")
    hidden_size: PositiveInt = Field(256, description="number of features that the words are projected to")
    weighting: WordWeighting = Field(
        "ratio", description="weight of a word: ratio (log-count ratio of the classes) or presence (1)"
    )


class ClassifierConfig(Section):
    """Head that maps features to logits."""

    renamed: ClassVar[Names] = {"standardise": "standardize"}

    hidden_dims: list[PositiveInt] = Field([], description="sizes of the hidden layers; []: a linear classifier")
    dropout: Probability = Field(0.0, description="dropout probability before each layer")
    activation: Activation = Field("relu", description="activation function of hidden layers")
    standardize: bool = Field(
        True, description="whether features are standardized with mean and deviation of the training set"
    )


class ModelConfig(Section):
    """All parts of the model."""

    renamed: ClassVar[Names] = {"lexical": "bag_of_words"}

    text_encoder: TextEncoderConfig = TextEncoderConfig()
    audio_encoder: AudioEncoderConfig = AudioEncoderConfig()
    midi_encoder: MidiEncoderConfig = MidiEncoderConfig()
    fusion: FusionConfig = FusionConfig()
    temporal: TemporalConfig = TemporalConfig()
    bag_of_words: BagOfWordsConfig = BagOfWordsConfig()
    classifier: ClassifierConfig = ClassifierConfig()
