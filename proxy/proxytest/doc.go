// Package proxytest is what the proxy is tested with: a CRI runtime that
// journals every call it gets, and a suite of calls that must end the same
// whether a client talks to that runtime directly or through a proxy.
//
// The [Backend] knows no RPC by name. It walks the protobuf descriptors of
// cri-api, takes every call as raw bytes, and answers with a message in which
// every field is set, and one more field that cri-api has never heard of. An
// RPC or a field that an upgrade of cri-api adds is therefore tested on the
// day of the upgrade.
//
// [Run] makes every call of the suite twice, directly and through the proxy,
// and compares the two transcripts: answers, headers, trailers, status,
// details, and what the backend saw of the call. It states nothing about what
// the right answer is, only that a proxy has no part in it. Where a proxy does
// have a part, as in a rewritten log path, [Options.Expect] says which.
package proxytest
