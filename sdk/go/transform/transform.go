// Package transform makes a plugin of a function that makes the requests that go out.
package transform

import "tidegate/plugin"

var exported plugin.Transform

// Export makes this the plugin's transform. To be called once, in an init function.
func Export(transform plugin.Transform) {
	exported = transform
}
