package openrouter

import "strings"

// ownHost is OpenRouter's own (https://openrouter.ai/docs/api-reference/overview).
const ownHost = "openrouter.ai"

// IsOpenRouter tells whether the server is OpenRouter itself, and no compatible gateway.
func (c *Client) IsOpenRouter() bool {
	host := strings.ToLower(strings.TrimSuffix(c.base.Hostname(), "."))
	return host == ownHost || strings.HasSuffix(host, "."+ownHost)
}
