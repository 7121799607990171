"""Graph passes: one file a pass. Their order is in `cls_exporter.graph.pipeline`."""
