"""How a long fan-out runs; the only room that knows prefect."""
