"""The NPU program: commands on bytes, and where everything lies. What a compiler writes and a simulator runs."""
