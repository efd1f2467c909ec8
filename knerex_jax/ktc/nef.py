"""Compiled models, by the published calls."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from knerex_jax.artifacts.bie import load_bie
from knerex_jax.deliver import compiled_by, nef_model
from knerex_jax.errors import ConfigError
from knerex_jax.ktc.folders import output_folder
from knerex_jax.ktc.model_config import OLD_TILING, ModelConfig
from knerex_jax.ktc.notes import modern, tell, tell_one
from knerex_jax.nef import tools
from knerex_jax.nef.container import Nef, combined, save_nef
from knerex_jax.nef.crypto import read_key


def compile(
    model_list: Sequence[ModelConfig],
    output_dir: str | Path | None = None,
    dedicated_output_buffer: bool = True,
    weight_compress: bool = False,
    flatbuffer: bool = True,
    compiler_tiling: str = "default",
    weight_bandwidth: float | None = None,
    dma_bandwidth: float | None = None,
    **old: Any,
) -> str:
    """Compiles models into one nef.

    Args:
      model_list: of one platform, with different ids; given as bie, or after `analysis`.
      output_dir: folder; None for /data1/kneron_flow.
      dedicated_output_buffer: outputs always have a segment of their own.
      weight_compress: packs the segments.
      flatbuffer: the container is always ours.
      compiler_tiling: "default", or "deep_search" for the division that the cost model finds fastest.
      weight_bandwidth: GB/s of loading weights, by which tilings are compared.
      dma_bandwidth: GB/s of moving data, each way, likewise.
      **old: arguments of earlier releases.

    Returns:
      Path of `models_<platform>.nef`.

    Raises:
      ConfigError: no models, or one without a bie.
      ArtifactError: two models have one id, or platforms differ.
      CompileError: a model does not fit its machine.
    """
    tiling = modern(old, OLD_TILING, compile).get("compiler_tiling", compiler_tiling)
    _tell_fixed(dedicated_output_buffer, flatbuffer)
    bandwidths = {"weight_bandwidth": weight_bandwidth, "dma_bandwidth": dma_bandwidth}
    return _compile(model_list, output_dir, weight_compress, tiling, bandwidths, None)


def encrypt_compile(
    model_list: Sequence[ModelConfig],
    output_dir: str | Path | None = None,
    dedicated_output_buffer: bool = True,
    mode: int | None = None,
    key: str = "",
    key_file: str | Path = "",
    encryption_efuse_key: str = "",
    weight_compress: bool = False,
    flatbuffer: bool = True,
    compiler_tiling: str = "default",
    weight_bandwidth: float | None = None,
    dma_bandwidth: float | None = None,
    **old: Any,
) -> str:
    """As `compile`, with the body of the nef encrypted by AES-256-GCM; it is for our simulator, not for a chip.

    Args:
      model_list: see `compile`, as for all arguments that are not named here.
      output_dir: see there.
      dedicated_output_buffer: see there.
      mode: None does not encrypt; 1 encrypts with a key. 2, a key in the fuses of a chip, has no meaning here.
      key: 64 hexadecimal digits; mode 1 wants this or `key_file`.
      key_file: file that holds 32 bytes, or 64 hexadecimal digits.
      encryption_efuse_key: not used.
      weight_compress: see there.
      flatbuffer: see there.
      compiler_tiling: see there.
      weight_bandwidth: see there.
      dma_bandwidth: see there.
      **old: see there.

    Returns:
      Path of `models_<platform>.nef`.

    Raises:
      ConfigError: mode 2 or an unknown one, no key, two different ones, or one of another length.
      KnerexError: as `compile`.
    """
    tiling = modern(old, OLD_TILING, encrypt_compile).get("compiler_tiling", compiler_tiling)
    secret = _key(mode, key, key_file, encryption_efuse_key)
    _tell_fixed(dedicated_output_buffer, flatbuffer)
    bandwidths = {"weight_bandwidth": weight_bandwidth, "dma_bandwidth": dma_bandwidth}
    return _compile(model_list, output_dir, weight_compress, tiling, bandwidths, secret)


def combine_nef(nef_path_list: Sequence[str | Path], output_path: str | Path = "/data1/combined") -> str:
    """Puts the models of several nefs into `models_<platform>.nef`.

    Args:
      nef_path_list: nefs of one platform, not encrypted, with different ids.
      output_path: folder.

    Returns:
      The folder.

    Raises:
      ArtifactError: a nef cannot be read, two models have one id, or platforms differ.
    """
    return str(tools.combine_nef(nef_path_list, output_folder(output_path)).parent)


def _compile(
    models: Sequence[ModelConfig],
    output_dir: str | Path | None,
    compress: bool,
    tiling: str,
    bandwidths: dict[str, float | None],
    key: bytes | None,
) -> str:
    if isinstance(models, ModelConfig) or not models:
        raise ConfigError("no list of models", where="model_list", fix="give a list of ModelConfig")
    for model in models:
        if model.bie_path is None:
            fix = "run its analysis first, or give it bie_path"
            raise ConfigError("the model is not quantized yet", where=f"model {model.id}", fix=fix)
    if tiling == "partial_graph_search":
        tell_one("compiler_tiling", tiling, "deep_search", "there is one search, over the whole graph")
        tiling = "deep_search"
    made = []
    for model in models:
        config = model.config(fm_cut=tiling, **bandwidths)
        tell(config.notes())
        bie = load_bie(model.bie_path)
        if bie.program.platform != config.platform:
            what = f"the bie is for platform {bie.program.platform}, not {config.platform}"
            raise ConfigError(what, where=str(model.bie_path), fix="give the ModelConfig the platform of its bie")
        made.append(nef_model(bie, compiled_by(bie, config), config.model_id, config.model_version))
    nef = combined(Nef((one,)) for one in made)
    path = output_folder(output_dir) / f"models_{nef.platform}.nef"
    save_nef(nef, path, compress=compress, key=key)
    return str(path)


def _tell_fixed(dedicated_output_buffer: bool, flatbuffer: bool) -> None:
    """What of the maker's container has no choice here."""
    if not dedicated_output_buffer:
        tell_one("dedicated_output_buffer", False, True, "outputs have a segment of their own")
    if not flatbuffer:
        tell_one("flatbuffer", False, "the one container there is", "docs/nef.md describes it")


def _key(mode: int | None, key: str, key_file: str | Path, efuse: str) -> bytes | None:
    """The key of a published mode."""
    if mode is None:
        if key or key_file or efuse:
            tell_one("key", "given", "unused", "mode None does not encrypt")
        return None
    if mode not in (1, 2):
        raise ConfigError("an unknown mode", where=f"mode={mode!r}", fix="use 1, or None for no encryption")
    if mode == 2:
        fix = "use mode=1 with key or key_file"
        raise ConfigError("a key in the fuses of a chip cannot be had without the chip", where="mode=2", fix=fix)
    if efuse:
        tell_one("encryption_efuse_key", "given", "unused", "there is no chip whose fuses could hold it")
    held = read_key(key_file) if key_file else None
    try:
        stated = bytes.fromhex(key) if key else None
    except ValueError:
        stated = b""
    if stated is not None and len(stated) != 32:
        raise ConfigError("this is not a key of AES-256", where="key", fix="give 64 hexadecimal digits")
    if stated and held and stated != held:
        raise ConfigError("two different keys", where="key and key_file", fix="give one of them")
    if (secret := stated or held) is None:
        raise ConfigError("mode 1 needs a key", where="key, key_file", fix="give 64 hexadecimal digits, or a file")
    return secret
