"""The two models of the examples: ResNet-50 and BERT-base, with random weights.

torchvision's and transformers' definitions are taken where they can be imported, else the compact ones below, which have
the same layers and sizes. Nothing is downloaded.
"""

import torch
from torch import nn
from torch.nn import functional as F

IMAGE_SHAPE = (3, 224, 224)
IMAGE_CLASSES = 1000
SEQUENCE_TOKENS = 128
VOCABULARY = 30522


def resnet50(definition="auto"):
    """ResNet-50 for 224 x 224 images and 1,000 classes."""
    if definition != "own":
        try:
            from torchvision.models import resnet50 as library_resnet50

            return library_resnet50(weights=None)
        except ImportError:
            if definition == "library":
                raise
    return ResNet50()


def bert_base(definition="auto"):
    """BERT-base's encoder: token ids of shape (batch, tokens) in, last hidden state (batch, tokens, 768) out."""
    if definition != "own":
        try:
            from transformers import BertConfig, BertModel

            return LastHiddenState(BertModel(BertConfig(), add_pooling_layer=False))
        except ImportError:
            if definition == "library":
                raise
    return Bert()


def random_input(model_name, batch, generator=None):
    """One request's input on the host: images for resnet50, token ids for bert."""
    if model_name == "resnet50":
        return torch.randn((batch, *IMAGE_SHAPE), generator=generator)
    return torch.randint(0, VOCABULARY, (batch, SEQUENCE_TOKENS), generator=generator)


class LastHiddenState(nn.Module):
    """Reduces a transformers encoder to one tensor in, one tensor out."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, tokens):
        return self.encoder(input_ids=tokens).last_hidden_state


class ResNet50(nn.Module):
    """The residual network of 50 layers, stride in the 3 x 3 convolution."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        blocks, channels = [], 64
        for stage, (width, depth) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
            for position in range(depth):
                stride = 2 if stage > 0 and position == 0 else 1
                blocks.append(Bottleneck(channels, width, stride))
                channels = width * Bottleneck.EXPANSION
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(channels, IMAGE_CLASSES)

    def forward(self, images):
        features = self.blocks(self.stem(images))
        return self.classifier(F.adaptive_avg_pool2d(features, 1).flatten(1))


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3, 1 x 1 convolutions beside a shortcut."""

    EXPANSION = 4

    def __init__(self, channels, width, stride):
        super().__init__()
        out_channels = width * self.EXPANSION
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut = nn.Identity()
        if stride != 1 or channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, out_channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x):
        return F.relu(self.body(x) + self.shortcut(x), inplace=True)


class Bert(nn.Module):
    """Embeddings and 12 post-norm encoder layers of 768 channels and 12 heads."""

    def __init__(self, layers=12, channels=768, heads=12, positions=512):
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, channels)
        self.positions = nn.Embedding(positions, channels)
        self.segments = nn.Embedding(2, channels)
        self.norm = nn.LayerNorm(channels, eps=1e-12)
        self.layers = nn.ModuleList(BertLayer(channels, heads) for _ in range(layers))
        self.register_buffer("position_ids", torch.arange(positions), persistent=False)

    def forward(self, tokens):
        place = self.positions(self.position_ids[: tokens.shape[1]])
        x = self.norm(self.tokens(tokens) + place + self.segments.weight[0])
        for layer in self.layers:
            x = layer(x)
        return x


class BertLayer(nn.Module):
    """Self-attention, then a feed-forward network of four times the width."""

    def __init__(self, channels, heads):
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(channels, 3 * channels)
        self.attention_out = nn.Linear(channels, channels)
        self.attention_norm = nn.LayerNorm(channels, eps=1e-12)
        self.expand = nn.Linear(channels, 4 * channels)
        self.contract = nn.Linear(4 * channels, channels)
        self.output_norm = nn.LayerNorm(channels, eps=1e-12)

    def forward(self, x):
        batch, tokens, channels = x.shape
        split = self.query_key_value(x).view(batch, tokens, 3, self.heads, channels // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value)
        attended = attended.transpose(1, 2).reshape(batch, tokens, channels)
        x = self.attention_norm(x + self.attention_out(attended))
        return self.output_norm(x + self.contract(F.gelu(self.expand(x))))
