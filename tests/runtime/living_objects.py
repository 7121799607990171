"""What this process still holds of a class: that nothing is kept is a test's to say."""

import gc


def living(kind: type) -> list:
    """All objects of `kind` that the garbage collector knows.

    It asks their type: `isinstance` would ask the objects too, and a deprecated one (torch has such) answers with a warning.
    """
    gc.collect()
    return [item for item in gc.get_objects() if issubclass(type(item), kind)]
