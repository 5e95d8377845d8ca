// Package oracle has kubelet's own log reader say what it sees in the logs that
// the converter writes. It is all tests.
package oracle
