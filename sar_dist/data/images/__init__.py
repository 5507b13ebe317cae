"""From encoded bytes to what the model sees: decoding, augmentation on the host and on the device, bad samples."""

from sar_dist.data.images.augment import (
    DrawnImage,
    FastTrainTransform,
    build_eval_transform,
    build_train_transform,
    make_posterize_safe,
)
from sar_dist.data.images.bad_samples import BadSamples
from sar_dist.data.images.cropped import CroppedImage
from sar_dist.data.images.decode import (
    UndecodableImage,
    check_png,
    decode_and_listen,
    decode_image,
    decode_pil,
    jpeg_size,
)
from sar_dist.data.images.device_plan import DevicePlan, make_plan
from sar_dist.data.images.device_resize import crop_and_resize, moved
from sar_dist.data.images.device_transforms import DeviceTransform
from sar_dist.data.images.drawn_operations import Canvas, DrawnOperation, Kind
from sar_dist.data.images.encoded import (
    EncodedBatch,
    EncodedImage,
    EncodedTrainTransform,
    finished_pixels,
    layout_of,
)
from sar_dist.data.images.image_operations import ImageArray
from sar_dist.data.images.partial_decode import decode_box
from sar_dist.data.images.rand_augment import build_operation_draw, canvas_of
from sar_dist.data.images.sample_decoder import BadSample, Draw, DrawnAhead, SampleDecoder, Transform

__all__ = [
    "BadSample",
    "BadSamples",
    "Canvas",
    "CroppedImage",
    "DevicePlan",
    "DeviceTransform",
    "Draw",
    "DrawnAhead",
    "DrawnImage",
    "DrawnOperation",
    "EncodedBatch",
    "EncodedImage",
    "EncodedTrainTransform",
    "FastTrainTransform",
    "ImageArray",
    "Kind",
    "SampleDecoder",
    "Transform",
    "UndecodableImage",
    "build_eval_transform",
    "build_operation_draw",
    "build_train_transform",
    "canvas_of",
    "check_png",
    "crop_and_resize",
    "decode_and_listen",
    "decode_box",
    "decode_image",
    "decode_pil",
    "finished_pixels",
    "jpeg_size",
    "layout_of",
    "make_plan",
    "make_posterize_safe",
    "moved",
]
