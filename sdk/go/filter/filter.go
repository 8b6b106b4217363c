// Package filter makes a plugin of a function that decides whether events go on.
package filter

import "tidegate/plugin"

var exported plugin.Filter

// Export makes this the plugin's filter. To be called once, in an init function.
func Export(filter plugin.Filter) {
	exported = filter
}
