"""Mixture to adapter: `accelerate launch train.py mixture=DIR model=mistral_7b`."""

if __name__ == "__main__":
    from smart.cli.train import main

    main()
