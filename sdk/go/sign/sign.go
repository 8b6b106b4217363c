// Package sign makes a plugin of a function that signs attempts.
package sign

import "tidegate/plugin"

var exported plugin.Sign

// Export makes this the plugin's signer. To be called once, in an init function.
func Export(sign plugin.Sign) {
	exported = sign
}
