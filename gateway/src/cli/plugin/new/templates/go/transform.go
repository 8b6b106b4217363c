// Announces new issues in a chat.
package main

import (
	"tidegate/plugin"
	"tidegate/plugin/transform"
)

func init() { transform.Export(announce) }

func main() {}

func announce(event *plugin.Event, host plugin.Host) ([]*plugin.Output, error) {
	var body struct {
		Action string
		Issue  struct{ Title string }
	}
	if err := event.Request.JSON(&body); err != nil {
		return nil, err
	}
	if body.Action != "opened" || body.Issue.Title == "" {
		host.Log(plugin.Info, "not about a new issue")
		return nil, nil
	}
	message := map[string]string{"text": "new issue: " + body.Issue.Title}
	return []*plugin.Output{plugin.NewOutput().ClearHeaders().JSON(message)}, nil
}
