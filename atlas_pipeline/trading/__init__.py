"""Trading: simulator, rewards, policy optimisation, risk, backtest, statistics."""
