// Package deploy is what a node needs: units, settings, the Debian package. It
// has no code but its tests. It is a module of its own, so that nfpm, which
// makes the package, stays out of the product's go.mod with all that it needs.
package deploy
