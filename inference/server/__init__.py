"""The rerank server: a trained reranker over HTTP, as Cohere's and Jina's clients call it."""
