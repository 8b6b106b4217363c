// Lets new issues through, and announces them in a chat. A connection says which of the two it uses.
package main

import (
	"tidegate/plugin"
	"tidegate/plugin/filter"
	"tidegate/plugin/transform"
)

func init() {
	filter.Export(isNewIssue)
	transform.Export(announce)
}

func main() {}

// title is that of an issue that was opened; empty for anything else.
func title(event *plugin.Event) (string, error) {
	var body struct {
		Action string
		Issue  struct{ Title string }
	}
	if err := event.Request.JSON(&body); err != nil || body.Action != "opened" {
		return "", err
	}
	return body.Issue.Title, nil
}

func isNewIssue(event *plugin.Event, host plugin.Host) (bool, error) {
	opened, err := title(event)
	return opened != "", err
}

func announce(event *plugin.Event, host plugin.Host) ([]*plugin.Output, error) {
	opened, err := title(event)
	if err != nil {
		return nil, err
	}
	if opened == "" {
		host.Log(plugin.Info, "not about a new issue")
		return nil, nil
	}
	message := map[string]string{"text": "new issue: " + opened}
	return []*plugin.Output{plugin.NewOutput().ClearHeaders().JSON(message)}, nil
}
