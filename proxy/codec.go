package proxy

import (
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec that proto messages go through
	"google.golang.org/grpc/mem"
)

// frame is a message that nobody looks at. Its buffers are handed on once.
type frame struct{ data mem.BufferSlice }

// message is a message as bytes, for those calls that are looked at.
type message struct{ bytes []byte }

// codec passes frames and messages as they are, and proto messages through
// gRPC's own codec. It is named like that one, because the name travels as the
// content type and a server may refuse one that it does not know.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2("proto")} }

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	switch v := v.(type) {
	case *frame:
		data := v.data
		v.data = nil
		return data, nil
	case *message:
		return mem.BufferSlice{mem.SliceBuffer(v.bytes)}, nil
	}
	return c.CodecV2.Marshal(v)
}

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	switch v := v.(type) {
	case *frame:
		v.data.Free() // a second message, where there should be one
		data.Ref()
		v.data = data
		return nil
	case *message:
		v.bytes = data.Materialize()
		return nil
	}
	return c.CodecV2.Unmarshal(data, v)
}
