// Package judge makes a plugin of a function that says what a destination's answer means.
package judge

import "tidegate/plugin"

var exported plugin.Judge

// Export makes this the plugin's judge. To be called once, in an init function.
func Export(judge plugin.Judge) {
	exported = judge
}
