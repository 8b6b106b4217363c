// Package respond makes a plugin of a function that answers requests that are no events.
package respond

import "tidegate/plugin"

var exported plugin.Respond

// Export makes this the plugin's responder. To be called once, in an init function.
func Export(respond plugin.Respond) {
	exported = respond
}
