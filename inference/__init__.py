"""How a model is asked, and answers.

`engine` sends a stream of requests to one OpenAI-compatible endpoint, keeps every answer in `store`, stays inside
`budget`, adapts its pace to the endpoint, and asks once more where an answer is malformed; `batch` does the same
through the provider's Batch API, within a day and mostly at half the price. `standin` is a small server that speaks
the same protocol and answers from lexical evidence alone; it is not a language model.

Absent on purpose: prompts and parsers (they belong to `ranking`), the lake (`warehouse`), and orchestration (`flows`).
"""
