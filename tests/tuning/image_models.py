"""Tiny models of the real image architectures, with random weights, and pictures to feed them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizerFast,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

SIZE = 16  # pixels
BYTES = [chr(code) for code in range(ord("a"), ord("z") + 1)]


def tiny_tokenizer(length: int = 16) -> CLIPTokenizer:
    """A CLIP tokenizer of single letters."""
    words = ["<|startoftext|>", "<|endoftext|>", *BYTES, *(letter + "</w>" for letter in BYTES)]
    return CLIPTokenizer(
        vocab={word: index for index, word in enumerate(words)}, merges=[], model_max_length=length
    )


def text_config(tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        projection_dim=16,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def save_pipeline(
    folder: Path,
    *,
    prediction_type: str = "epsilon",
    tiny_vae: bool = False,
    seed: int = 0,
    in_channels: int = 4,
    **scheduler: object,
) -> Path:
    """A Stable-Diffusion pipeline of some 30,000 parameters for 16 × 16 pictures, in diffusers format."""
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    unet = tiny_unet(in_channels=in_channels)
    vae = tiny_autoencoder() if tiny_vae else autoencoder()
    settings = {"beta_schedule": "scaled_linear", "clip_sample": False, "steps_offset": 1} | scheduler
    pipeline = StableDiffusionPipeline(
        unet=unet,
        vae=vae,
        text_encoder=CLIPTextModel(text_config(tokenizer)),
        tokenizer=tokenizer,
        scheduler=DDIMScheduler(prediction_type=prediction_type, **settings),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def tiny_unet(**settings: object) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIZE // 2,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=16,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        **{"in_channels": 4} | settings,
    )


def tiny_autoencoder() -> AutoencoderTiny:
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        latent_channels=4,
    )


def autoencoder(**settings: object) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=SIZE,
        scaling_factor=0.5,
        **settings,
    )


def save_sdxl(folder: Path, *, seed: int = 0) -> Path:
    """An SDXL pipeline for 16 × 16 pictures."""
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    unet = UNet2DConditionModel(
        sample_size=SIZE // 2,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=32,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=16 + 6 * 8,
    )
    pipeline = StableDiffusionXLPipeline(
        unet=unet,
        vae=autoencoder(),
        text_encoder=CLIPTextModel(text_config(tokenizer)),
        tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(text_config(tokenizer)),
        tokenizer_2=tokenizer,
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1),
        add_watermarker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def save_sd3(folder: Path, *, seed: int = 0, shift: float = 3.0) -> Path:
    """A Stable-Diffusion-3 pipeline for 16 × 16 pictures, without T5."""
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=SIZE // 2,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=32,
        pos_embed_max_size=SIZE // 4,
    )
    pipeline = StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
        vae=autoencoder(shift_factor=0.1),
        text_encoder=CLIPTextModelWithProjection(text_config(tokenizer)),
        tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(text_config(tokenizer)),
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def save_lcm(folder: Path, *, seed: int = 0, guidance: int | None = 8) -> Path:
    """A latent consistency model for 16 × 16 pictures; ``guidance``: width of what the U-Net is told."""
    pipeline = StableDiffusionPipeline.from_pretrained(save_pipeline(folder, seed=seed))
    LatentConsistencyModelPipeline(
        unet=tiny_unet(time_cond_proj_dim=guidance),
        vae=pipeline.vae,
        text_encoder=pipeline.text_encoder,
        tokenizer=pipeline.tokenizer,
        scheduler=LCMScheduler(beta_schedule="scaled_linear"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder, safe_serialization=True)
    return folder


def save_turbo(folder: Path, *, seed: int = 0) -> Path:
    """Stable Diffusion as SD-Turbo is sampled: ancestral, from the last timestep on."""
    pipeline = StableDiffusionPipeline.from_pretrained(save_pipeline(folder, seed=seed))
    pipeline.scheduler = EulerAncestralDiscreteScheduler(
        beta_schedule="scaled_linear", timestep_spacing="trailing", steps_offset=1
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def save_pixart(folder: Path, *, seed: int = 0, alpha: bool = False, scheduler: Any = None) -> Path:
    """A PixArt pipeline for 16 × 16 pictures, which learned a variance too."""
    torch.manual_seed(seed)
    letters = letter_tokenizer()
    transformer = PixArtTransformer2DModel(
        sample_size=128 if alpha else SIZE // 2,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=32,
        norm_num_groups=4,
        use_additional_conditions=alpha,
    )
    kind = PixArtAlphaPipeline if alpha else PixArtSigmaPipeline
    pipeline = kind(
        tokenizer=letters,
        text_encoder=t5_encoder(letters),
        vae=autoencoder(),
        transformer=transformer,
        scheduler=scheduler or DPMSolverMultistepScheduler(beta_schedule="linear"),
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def save_sana(folder: Path, *, seed: int = 0, **scheduler: Any) -> Path:
    """A Sana pipeline for 32 × 32 pictures: that is as small as it draws."""
    torch.manual_seed(seed)
    tokenizer = GemmaTokenizerFast(
        vocab={word: at for at, word in enumerate(["<pad>", "<eos>", "<bos>", "<unk>", "▁", *BYTES])},
        merges=[],
        model_max_length=64,
    )
    encoder = Gemma2Model(
        Gemma2Config(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
        )
    )
    vae = AutoencoderDC(
        latent_channels=4,
        attention_head_dim=4,
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (), ()),
        decoder_qkv_multiscales=((), (), ()),
        scaling_factor=0.5,
    )
    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=16,
        sample_size=8,
    )
    pipeline = SanaPipeline(
        tokenizer=tokenizer,
        text_encoder=encoder,
        vae=vae,
        transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(
            use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction", **scheduler
        ),
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def save_flux(folder: Path, *, seed: int = 0, guidance_embeds: bool = True) -> Path:
    """A FLUX pipeline for 16 × 16 pictures."""
    torch.manual_seed(seed)
    tokenizer, letters = tiny_tokenizer(), letter_tokenizer()
    encoder = t5_encoder(letters)
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=guidance_embeds,
    )
    pipeline = FluxPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=autoencoder(shift_factor=0.1),
        text_encoder=CLIPTextModel(text_config(tokenizer)),
        tokenizer=tokenizer,
        text_encoder_2=encoder,
        tokenizer_2=letters,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def t5_encoder(letters: T5TokenizerFast) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(vocab_size=len(letters), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    )


def letter_tokenizer(length: int = 16) -> T5TokenizerFast:
    """A T5 tokenizer of single letters."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("▁", -1.0), *((one, -2.0) for one in BYTES)]
    return T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=length)


def save_clip(folder: Path, *, seed: int = 0) -> Path:
    """A CLIPModel for 16 × 16 pictures, with its tokenizer, in transformers format."""
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=SIZE,
        patch_size=4,
        projection_dim=16,
    )
    config = CLIPConfig(
        text_config=text_config(tokenizer).to_dict(), vision_config=vision.to_dict(), projection_dim=16
    )
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_picture(path: Path, *, seed: int, height: int = SIZE, width: int = SIZE) -> Path:
    """A picture of random pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path
