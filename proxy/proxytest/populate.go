package proxytest

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// unknownField is a field number that no message of CRI has.
const unknownField = 50000

// maxDepth bounds the population of a message type that contains itself.
const maxDepth = 16

// Populate sets every field of m, at every depth, and adds to every message a
// field that its type does not have. The values depend on the type and the
// seed alone; numbers and strings differ from field to field, so that two that
// change places are noticed.
//
// Lists get two elements. Maps get one entry, since the order of more is
// random on the wire and the bytes would not compare.
func Populate(m proto.Message, seed int) {
	p := &populator{seed: seed}
	p.message(m.ProtoReflect(), 0)
}

// populator counts the values that it has handed out.
type populator struct {
	seed, count int
}

func (p *populator) message(m protoreflect.Message, depth int) {
	if depth > maxDepth {
		return
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		switch {
		case f.IsMap():
			entries := m.Mutable(f).Map()
			key := p.scalar(f.MapKey()).MapKey()
			value := entries.NewValue()
			p.fill(&value, f.MapValue(), depth)
			entries.Set(key, value)
		case f.IsList():
			list := m.Mutable(f).List()
			for range 2 {
				value := list.NewElement()
				p.fill(&value, f, depth)
				list.Append(value)
			}
		default:
			value := m.NewField(f)
			p.fill(&value, f, depth)
			m.Set(f, value)
		}
	}
	unknown := protowire.AppendTag(m.GetUnknown(), unknownField, protowire.BytesType)
	unknown = protowire.AppendString(unknown, fmt.Sprintf("unknown-%d", p.next()))
	m.SetUnknown(unknown)
}

// fill puts something into value, which is new and of f's type.
func (p *populator) fill(value *protoreflect.Value, f protoreflect.FieldDescriptor, depth int) {
	if f.Message() != nil {
		p.message(value.Message(), depth+1)
		return
	}
	*value = p.scalar(f)
}

func (p *populator) scalar(f protoreflect.FieldDescriptor) protoreflect.Value {
	n := p.next()
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(p.enum(f.Enum()))
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(int32(n))
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(uint32(n))
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(int64(n))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(uint64(n))
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(float32(n) + 0.5)
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(float64(n) + 0.5)
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte{0, 0xff, byte(n)})
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(fmt.Sprintf("%s-%d", f.Name(), n))
	}
	panic(fmt.Sprintf("proxytest: field %s has kind %v, which Populate does not know", f.FullName(), f.Kind()))
}

// enum picks one of the values other than zero, if there are any.
func (p *populator) enum(e protoreflect.EnumDescriptor) protoreflect.EnumNumber {
	var numbers []protoreflect.EnumNumber
	for i := range e.Values().Len() {
		if n := e.Values().Get(i).Number(); n != 0 {
			numbers = append(numbers, n)
		}
	}
	if len(numbers) == 0 {
		return 0
	}
	return numbers[p.seed%len(numbers)]
}

// next is a number that this message has not had yet, and never zero.
func (p *populator) next() int {
	p.count++
	return p.seed*1000 + p.count
}

// populated returns the encoding of m with every field set.
func populated(m proto.Message, seed int) []byte {
	Populate(m, seed)
	return encode(m)
}

// encode returns the one deterministic encoding of m.
func encode(m proto.Message) []byte {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic(err) // only a string that is not UTF-8 can do this
	}
	return data
}
