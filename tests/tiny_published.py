"""Published tokenizers of few random numbers, saved as Hugging Face lays them out."""

import pytest

from poet.tokenizers import torch_audio, torch_visual


def save(kind, folder):
    """A model of few numbers with random codebooks of 64; the test is skipped without torch."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    configs = {
        "dac": lambda: transformers.DacConfig(
            encoder_hidden_size=4,
            downsampling_ratios=[2, 4, 5, 8],
            decoder_hidden_size=32,
            n_codebooks=5,
            codebook_size=64,
            codebook_dim=4,
            sampling_rate=16_000,
        ),
        "encodec": lambda: transformers.EncodecConfig(
            num_filters=4,
            hidden_size=16,
            codebook_dim=16,
            num_lstm_layers=1,
            codebook_size=64,
            target_bandwidths=[1.5, 3.0, 6.0],
            upsampling_ratios=[8, 5, 4, 2],
        ),
        # The narrowest that its 32 groups of normalisation allow.
        "emu3": lambda: transformers.Emu3VQVAEConfig(
            codebook_size=64,
            base_channels=32,
            channel_multiplier=[1, 1, 1, 1],
            num_res_blocks=1,
            hidden_size=32,
        ),
        "mimi": lambda: transformers.MimiConfig(
            num_filters=4,
            hidden_size=16,
            codebook_size=64,
            codebook_dim=8,
            vector_quantization_hidden_dimension=8,
            num_quantizers=6,
            upsample_groups=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=8,
            intermediate_size=16,
        ),
    }
    known = {**torch_audio.KINDS, **torch_visual.KINDS}
    model = getattr(transformers, known[kind].class_name)(configs[kind]())
    for name, value in model.named_buffers():
        if name.endswith(("codebook.embed", "codebook.embed_sum")):
            value.copy_(0.01 * torch.randn_like(value))  # As small as untrained latents.
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.startswith("encoder") and name.endswith("weight.original0"):
                value.mul_(4.0)  # Else an untrained EnCodec gives the same latent for everything.
    model.save_pretrained(folder)
