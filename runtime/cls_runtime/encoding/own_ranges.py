"""The ranges that a bundle's vectors lie in: those of its golden texts, so that int8 and uint8 are the same for a text in any batch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cls_runtime.bundle.folder import Bundle, require_fingerprint
from cls_runtime.bundle.golden import GOLDEN_NAME, Golden, read_golden
from cls_runtime.bundle.places import find_bundle
from cls_runtime.encoding.finishing import unquantized
from cls_runtime.encoding.vector_options import VectorForm
from cls_runtime.engines.needed_files import golden_files
from cls_runtime.errors import BundleError


def own_ranges(bundle: Bundle, form: VectorForm) -> NDArray[np.float32]:
    """The least and the largest of each number of the golden vectors in this form, float32 [2, form.dimensions].

    The golden vectors are read now; of a bundle that is on the hub they are fetched.

    Raises:
        BundleError: they cannot be read, have none of this output or none that its graph gives, or another bundle is there by now.
        HubError: the hub does not give them.
    """
    place = find_bundle(bundle.name)

    def read(opened: Bundle) -> Golden:
        require_fingerprint(opened, bundle.manifest.fingerprint)
        return read_golden(opened.companion(GOLDEN_NAME))

    golden = Bundle.read(place.folder, read, follow_links=bundle.follow_links, fetched=place.fetch(golden_files)).vectors
    if not len(golden.get(form.output, ())):
        raise BundleError(f"{GOLDEN_NAME} has no vectors of {form.output!r}; export the bundle again, or give ranges of your own")
    rows = golden[form.output]
    if rows.shape[1] != form.width or not np.isfinite(rows).all():
        found = "all finite" if np.isfinite(rows).all() else "not all finite"
        raise BundleError(
            f"{GOLDEN_NAME} has vectors of {form.output!r} of {rows.shape[1]} numbers, {found}, expected {form.width} finite ones; run "
            "cls-verify on the bundle, or give ranges of your own"
        )
    vectors = unquantized(rows.copy(), form, first_index=0, on_invalid="keep")
    return np.stack([vectors.min(axis=0), vectors.max(axis=0)])
