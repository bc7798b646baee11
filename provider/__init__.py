"""The provider agent: quotes prices, runs the model, commits and reveals answers, collects what is owed."""
