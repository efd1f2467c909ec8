"""A plan in float: its quantizers as differentiable operations that can be switched on one by one."""
