// Package verify makes a plugin of a function that checks the requests of a source.
package verify

import "tidegate/plugin"

var exported plugin.Verify

// Export makes this the plugin's verifier. To be called once, in an init function.
func Export(verify plugin.Verify) {
	exported = verify
}
