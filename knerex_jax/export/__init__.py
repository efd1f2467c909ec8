"""The fixed-point model as ONNX: in integers for plain ONNX Runtime, and with QuantizeLinear for other tools."""
