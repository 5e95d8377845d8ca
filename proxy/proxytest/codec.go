package proxytest

import (
	"fmt"

	"google.golang.org/grpc/mem"
)

// frame is one gRPC message that nobody has decoded.
type frame struct{ data []byte }

// rawCodec passes frames as they are. It is called "proto", because the name
// goes onto the wire as the content type, and a peer that does not know the
// type may refuse the call.
//
// It must never be registered: it would take the place of the codec that
// generated code relies on. Hand it to grpc.ForceServerCodecV2 and
// grpc.ForceCodecV2.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	f, ok := v.(*frame)
	if !ok {
		return nil, fmt.Errorf("raw codec: cannot marshal a %T", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(f.data)}, nil
}

// Unmarshal copies, since gRPC takes its buffers back when it returns.
func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	f, ok := v.(*frame)
	if !ok {
		return fmt.Errorf("raw codec: cannot unmarshal into a %T", v)
	}
	f.data = data.Materialize()
	return nil
}
